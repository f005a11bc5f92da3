"""IR-Net, RBNN and SiMaN: standardized weights, gradients that sharpen."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from jbin import estimators, quantizers, schedules
from jbin.quantizers import _rbnn
from tests.golden import torch_layers as layers
from tests.golden.compare import Reader, Vectors, close_gradient, pull

FORWARD, BACKWARD = 5e-6, 2e-4  # the vectors' README
SCHEDULE = r"e(\d+)of(\d+)_T([\d.]+)to([\d.]+)"


def _layer(z, inputs, kernels, **options):
  """The whole layer of a case; what else it has to show."""
  layer = layers.layer(z, inputs, kernels, **options)
  y, new, dparams, dx = layers.gradients(layer, z)
  layers.near(y, layers.tensor(z["y"]), FORWARD)
  close_gradient(dx, layers.tensor(z["grad_x"]), BACKWARD)
  want = layers.kernel(z["grad_weight"])
  close_gradient(dparams["kernel"][...], want, BACKWARD)
  return new, dparams


def _signs(quantizer, x, want, **options):
  y, *_ = layers.alone(quantizer, x, x, **options)
  np.testing.assert_array_equal(y, want)


# --- IR-Net -----------------------------------------------------------------


def irnet(z: Vectors):
  z = Reader(z)
  groups: dict[tuple[str, str], dict[str, np.ndarray]] = {}
  for key in z:
    if key in ("x", "g", "labels"):
      continue
    if found := re.fullmatch(rf"ede_({SCHEDULE})_out", key):
      _ede(z, f"ede_{found[1]}", found.groups()[1:])
    elif found := re.fullmatch(r"sched_E(\d+)_T([\d.]+)to([\d.]+)_k_t", key):
      _sharpness(z[key], int(found[1]), float(found[2]), float(found[3]))
    elif found := re.fullmatch(r"(c\d+)(?:_(.+))?__(\w+)", key):
      groups.setdefault((found[1], found[2] or ""), {})[found[3]] = z[key]
  cases = [(index, when) for index, when in groups if when]
  assert cases
  for index, when in cases:
    found = re.fullmatch(SCHEDULE, when)
    assert found, when
    read = Reader({**groups[index, ""], **groups[index, when]})
    _irnet_layer(read, found.groups())
    read.all_read()
  z.all_read()


def _ede(z, name, when):
  k, t = z[f"{name}_kt"]
  there = ~np.char.endswith(z["labels"], "subnormal")
  want = z[f"{name}_out"]
  for zero in (0.0, 1.0):
    for height in (k, None):
      y, (dx,) = pull(
        lambda x, k=height, zero=zero: estimators.ede_sign(
          x, t, k=k, zero=zero
        ),
        z["g"],
        z["x"],
      )
      signs = np.where(want == 0, zero, want)
      np.testing.assert_array_equal(np.asarray(y)[there], signs[there])
      dwant = z[f"{name}_gx"]
      # Theirs is 1 - tanh^2, rounded at 1.
      slack = 2e-5 * abs(dwant) + 5e-7 * k * t * abs(z["g"])
      assert (abs(np.asarray(dx) - dwant) <= slack).all()
  epoch, epochs, low, high = when
  rule = schedules.exponential(float(low), float(high))
  now = rule(schedules.progress_at(int(epoch), int(epochs)))
  np.testing.assert_allclose(now, t, rtol=1e-5)


def _sharpness(want, epochs, low, high):
  rule = schedules.exponential(low, high)
  at = [schedules.progress_at(epoch, epochs) for epoch in range(epochs)]
  t = rule(jnp.asarray(at))
  np.testing.assert_allclose(t, want[:, 1], rtol=1e-5)
  np.testing.assert_allclose(np.maximum(1 / t, 1), want[:, 0], rtol=1e-5)


def _irnet_layer(z, when):
  epoch, epochs, low, high = when
  k, t = float(z["k"].item()), float(z["t"].item())
  rule = schedules.exponential(float(low), float(high))
  now = float(schedules.progress_at(int(epoch), int(epochs)))
  for options in ({"t": t, "k": k}, {"t": rule}):
    kernels = quantizers.irnet_weight(**options, zero=0.0)
    inputs = quantizers.irnet_activation(**options, zero=0.0)
    w, g = layers.kernel(z["weight"]), layers.kernel(z["g_qw"])
    y, dw, _ = layers.alone(kernels, w, g, now)
    layers.near(y, layers.kernel(z["qw"]), FORWARD)
    close_gradient(dw, layers.kernel(z["qw_grad_weight"]), BACKWARD)
    _layer(z, inputs, kernels, progress=now)


# --- RBNN -------------------------------------------------------------------


def rbnn(z: Vectors):
  found = layers.groups(
    z, r"c(\d+)_(?:k([\d.]+)_t([\d.]+)_(norot|rotupdate))?_*"
  )
  cases = [key for key in found if key[1]]
  assert cases
  for index, k, t, mode in cases:
    arrays = {**found[index, None, None, None], **found[index, k, t, mode]}
    read = Reader(arrays)
    _rbnn_layer(read, float(k), float(t), mode == "rotupdate")
    read.all_read()


def _rbnn_layer(z, k, t, updated):
  theta, alpha = np.ravel(z["rotate"]), np.ravel(z["alpha"])
  before = {"left": z["R1_before"], "right": z["R2_before"]}
  used = {"left": z["R1_used"], "right": z["R2_used"]}
  weight = layers.kernel(z["weight"])
  kernels = quantizers.rbnn_weight(t=t, k=k, zero=0.0)
  inputs = quantizers.rbnn_activation(t=t, zero=0.0)
  if updated:
    w = jnp.asarray(weight)
    matrices = _rbnn.split(kernels._standardized(w))
    np.testing.assert_array_equal(_rbnn.join(_rbnn.split(w), w.shape), w)
    got = jax.jit(_rbnn.bi_rotation)(matrices, *before.values())
    for mine, want in zip(got, used.values(), strict=True):
      np.testing.assert_allclose(mine, want, atol=BACKWARD)
  _signs(inputs, layers.tensor(z["x"]), layers.tensor(z["qa"]))
  plain = quantizers.rbnn_weight(t=t, k=k, learned_scale=False, zero=0.0)
  _signs(plain, weight, layers.kernel(z["qw"]), theta=theta, **used)
  # With the standard height, and the epoch that is not over, or over.
  kernels = quantizers.rbnn_weight(t=t, zero=0.0)
  new, dparams = _layer(
    z,
    inputs,
    kernels,
    learned=({}, {"theta": theta, "scale": alpha}),
    statistics={**before, "epoch": np.float32(-1.0 if updated else 0.0)},
  )
  for name, want in used.items():
    got = new["kernel_quantizer"]["statistics"][name][...]
    np.testing.assert_allclose(got, want, atol=BACKWARD)
  for name, theirs in (("theta", "rotate"), ("scale", "alpha")):
    got = layers.learned_gradient(dparams, "kernel", name)
    close_gradient(got, np.ravel(z[f"grad_{theirs}"]), BACKWARD)


# --- SiMaN ------------------------------------------------------------------


def siman(z: Vectors):
  found = layers.groups(z, r"c(\d+)_(?:pct([\d.]+))?_*")
  cases = [key for key in found if key[1]]
  assert cases
  for index, percent in cases:
    read = Reader({**found[index, None], **found[index, percent]})
    _siman_layer(read, float(percent))
    read.all_read()


def _siman_layer(z, percent):
  shrunk = layers.kernel(z["weight_after_shrink"])
  got = jax.jit(quantizers.shrink_latents)(
    layers.kernel(z["weight_in"]), percent
  )
  np.testing.assert_allclose(got, shrunk, atol=FORWARD)
  inputs = quantizers.siman_activation(zero=0.0)
  _signs(inputs, layers.tensor(z["x"]), layers.tensor(z["qa"]))
  plain = quantizers.siman_weight(learned_scale=False)
  _signs(plain, shrunk, layers.kernel(z["qw"]))
  alpha = np.ravel(z["alpha"])
  _, dparams = _layer(
    z,
    inputs,
    quantizers.siman_weight(),
    weight="weight_after_shrink",
    learned=({}, {"scale": alpha}),
  )
  got = layers.learned_gradient(dparams, "kernel", "scale")
  close_gradient(got, np.ravel(z["grad_alpha"]), BACKWARD)
