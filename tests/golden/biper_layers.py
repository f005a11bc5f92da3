"""BiPer's square wave, its layer in both stages, its regulariser."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from jbin import estimators, quantizers, regularizers
from tests.golden import torch_layers as layers
from tests.golden.compare import Reader, Vectors, close_gradient, pull, value

FORWARD, BACKWARD = 2e-6, 3e-5  # the vectors' README
PHASE = 1e-6  # of a sine that is nearly zero: rounding decides
HALF = 0.5  # where the second stage begins here
PROGRESS = {"stage1": 0.0, "stage2": 1.0}


def _phase(w, omega):
  """Theirs: the product in float32, then the sine."""
  return np.float64(np.float32(omega) * w)


def _weight(omega: float, zero: float = 0.0, **options):
  return quantizers.biper_weight(omega, HALF, zero=zero, **options)


def special(z: Vectors):
  z = Reader(z)
  there = ~np.char.endswith(z["labels"], "subnormal")
  names = [key[: -len("_out")] for key in z if key.endswith("_out")]
  assert names
  for name in names:
    found = re.fullmatch(r"(sweep_)?w([\d.]+)(?:_(stage[12]))?|act", name)
    assert found, name
    sweep, omega, stage = found.groups()
    x = z["sweep_w"] if sweep else z["x"]
    g = z["sweep_g"] if sweep else z["g"]
    kept = np.ones(x.shape, bool) if sweep else there
    want, dwant = z[f"{name}_out"], z[f"{name}_gx"]
    if omega is None:
      _sign(x, g, kept, want, dwant)
    else:
      _wave(float(omega), stage or "stage2", x, g, kept, want, dwant)
  z.all_read()


def _sign(x, g, kept, want, dwant):
  spec = quantizers.recu_activation(standardized=False, zero=0.0)
  y, (dx,) = pull(lambda x: value(spec(x)), g, x)
  np.testing.assert_array_equal(np.asarray(y)[kept], want[kept])
  np.testing.assert_allclose(dx, dwant, rtol=BACKWARD, atol=1e-6)


def _wave(omega, stage, x, g, kept, want, dwant):
  spec = _weight(omega, learned_scale=False)
  y, dx, _ = layers.alone(spec, x, g, PROGRESS[stage])
  far = abs(x) >= 1e3  # arguments to be reduced
  slack = np.where(far, 1e-3, FORWARD)
  if stage == "stage1":
    assert (abs(np.asarray(y) - want) <= slack).all()
  else:
    sure = kept & (abs(np.sin(_phase(x, omega))) > PHASE) | (x == 0) & kept
    np.testing.assert_array_equal(np.asarray(y)[sure], want[sure])
    assert np.isin(y, (-1, 0, 1)).all()
    one = estimators.sine_sign(jnp.asarray(x), omega)
    np.testing.assert_array_equal(
      np.asarray(one)[sure], np.where(want == 0, 1, want)[sure]
    )
  slack = omega * np.maximum(abs(g), 1) * np.where(far, 1e-3, BACKWARD)
  assert (abs(np.asarray(dx) - dwant) <= slack).all()


def conv2d(z: Vectors):
  found = layers.groups(z, r"c(\d+)_(?:w([\d.]+)_(stage[12])_(train|eval))?_*")
  cases = [key for key in found if key[1]]
  assert cases
  for index, omega, stage, when in cases:
    arrays = {
      **found[index, None, None, None],
      **found[index, omega, stage, when],
    }
    read = Reader(arrays)
    inputs = quantizers.recu_activation(standardized=when == "train", zero=0.0)
    _operators(read, inputs, float(omega), stage)
    _layer(read, inputs, _weight(float(omega)), PROGRESS[stage])
    if stage == "stage2":
      fixed = quantizers.biper_weight(float(omega), 0, zero=0.0)
      _layer(read, inputs, fixed, 0.0)
    read.all_read()


def _operators(z, inputs, omega, stage):
  x, w = layers.tensor(z["x"]), layers.kernel(z["weight"])
  y, dx, _ = layers.alone(inputs, x, layers.tensor(z["g_qa"]))
  layers.near(y, layers.tensor(z["qa"]), FORWARD)
  close_gradient(dx, layers.tensor(z["qa_grad_x"]), BACKWARD)
  spec = _weight(omega, learned_scale=False)
  g, want = layers.kernel(z["g_qw"]), layers.kernel(z["qw"])
  y, dw, _ = layers.alone(spec, w, g, PROGRESS[stage])
  layers.near(y, want, FORWARD)
  close_gradient(dw, layers.kernel(z["qw_grad_weight"]), BACKWARD)
  if stage == "stage2":  # with a bit for 0, and codes
    spec = quantizers.biper_weight(omega, 0, learned_scale=False)
    q = spec(jnp.asarray(w))
    np.testing.assert_array_equal(q.value, np.where(want == 0, 1, want))
    np.testing.assert_array_equal(q.codes, q.value)


def _layer(z, inputs, kernels, progress):
  alpha = np.ravel(z["alpha"])
  bias = None
  if "bias" in z:
    bias = z["bias"]
  layer = layers.layer(
    z,
    inputs,
    kernels,
    # Theirs scales the bias too.
    bias=None if bias is None else alpha * bias,
    learned=({}, {"scale": alpha}),
    progress=progress,
  )
  y, _, dparams, dx = layers.gradients(layer, z)
  layers.near(y, layers.tensor(z["y"]), BACKWARD)
  close_gradient(dx, layers.tensor(z["grad_x"]), BACKWARD)
  want = layers.kernel(z["grad_weight"])
  close_gradient(dparams["kernel"][...], want, BACKWARD)
  dalpha = layers.learned_gradient(dparams, "kernel", "scale")
  if bias is not None:
    dbias = np.asarray(dparams["bias"][...])
    close_gradient(alpha * dbias, z["grad_bias"], BACKWARD)
    dalpha = dalpha + bias * dbias
  close_gradient(dalpha, np.ravel(z["grad_alpha"]), BACKWARD)


def regulariser(z: Vectors):
  for arrays in layers.groups(z, r"r(\d+)_").values():
    read = Reader(arrays)
    omega, tau = map(float, read["freq_tau"])
    count = sum(key.startswith("w") for key in arrays)
    weights = [jnp.asarray(read[f"w{i}"]) for i in range(count)]
    loss, grads = jax.value_and_grad(regularizers.biper)(weights, omega, tau)
    np.testing.assert_allclose(loss, read["loss"], rtol=BACKWARD)
    for i, grad in enumerate(grads):
      close_gradient(grad, read[f"gw{i}"], BACKWARD)
    error = regularizers.biper_error(weights, omega)
    np.testing.assert_allclose(error, read["QE"], rtol=BACKWARD)
    spread = regularizers.biper_magnitude(weights)
    np.testing.assert_allclose(spread, read["b"], rtol=BACKWARD)
    read.all_read()
