"""ReSTE's estimator, schedule, layer and indicators."""

import re

import jax.numpy as jnp
import numpy as np

from jbin import estimators, quantizers, schedules, watch
from tests.golden import torch_layers as layers
from tests.golden.compare import Reader, Vectors, close_gradient, pull

ESTIMATOR, LAYER, INDICATOR = 2e-6, 1e-5, 1e-6  # the vectors' README


def estimator(z: Vectors):
  z = Reader(z)
  there = ~np.char.endswith(z["labels"], "subnormal")
  names = [key[: -len("_out")] for key in z if key.endswith("_out")]
  assert names
  for name in names:
    found = re.fullmatch(r"(sweep_)?o([\d.]+)_t([\d.]+)", name)
    assert found, name
    sweep = bool(found[1])
    x, g = (z["sweep_x"], z["sweep_g"]) if sweep else (z["x"], z["g"])
    kept = np.ones(x.shape, bool) if sweep else there
    o, t = float(found[2]), float(found[3])
    for zero in (0.0, 1.0):
      y, (dx,) = pull(
        lambda x, o=o, t=t, zero=zero: estimators.reste_sign(
          x, o, t=t, zero=zero
        ),
        g,
        x,
      )
      want = z[f"{name}_out"]
      want = np.where(want == 0, zero, want)
      np.testing.assert_array_equal(np.asarray(y)[kept], want[kept])
      np.testing.assert_allclose(dx, z[f"{name}_gx"], rtol=ESTIMATOR)
  z.all_read()


def schedule_o(z: Vectors):
  for key, want in z.items():
    found = re.fullmatch(r"E(\d+)_oend([\d.]+)", key)
    assert found, key
    rule = schedules.quarter_cosine(1.0, float(found[2]))
    epochs = int(found[1])
    at = [schedules.progress_at(epoch, epochs) for epoch in range(epochs)]
    np.testing.assert_allclose(rule(jnp.asarray(at)), want, rtol=1e-6)


def conv2d(z: Vectors):
  found = layers.groups(z, r"c(\d+)_(?:e(\d+)of(\d+)_oend([\d.]+))?_*")
  cases = [key for key in found if key[1]]
  assert cases
  for index, epoch, epochs, end in cases:
    arrays = {
      **found[index, None, None, None],
      **found[index, epoch, epochs, end],
    }
    read = Reader(arrays)
    now = schedules.progress_at(int(epoch), int(epochs))
    rule = schedules.quarter_cosine(1.0, float(end))
    np.testing.assert_allclose(rule(now), read["o"], rtol=1e-6)
    for o in (rule, float(read["o"])):
      _layer(read, o, now)
    read.all_read()


def _layer(z, o, progress):
  inputs = quantizers.reste_activation(o, zero=0.0)
  kernels = quantizers.reste_weight(o, zero=0.0)
  w, g = layers.kernel(z["weight"]), layers.kernel(z["g_qw"])
  y, dw, _ = layers.alone(kernels, w, g, progress)
  layers.near(y, layers.kernel(z["qw"]), 1e-6)
  close_gradient(dw, layers.kernel(z["qw_grad_weight"]), LAYER)
  x = layers.tensor(z["x"])
  y, *_ = layers.alone(inputs, x, x, progress)
  np.testing.assert_array_equal(y, layers.tensor(z["qa"]))
  layer = layers.layer(z, inputs, kernels, progress=progress)
  y, _, dparams, dx = layers.gradients(layer, z)
  layers.near(y, layers.tensor(z["y"]), LAYER)
  close_gradient(dx, layers.tensor(z["grad_x"]), LAYER)
  want = layers.kernel(z["grad_weight"])
  close_gradient(dparams["kernel"][...], want, LAYER)


def indicators(z: Vectors):
  z = Reader(z)
  count = sum(re.fullmatch(r"w\d+", key) is not None for key in z)
  weights = {str(i): jnp.asarray(z[f"w{i}"]) for i in range(count)}
  grads = [jnp.asarray(z[f"grad{i}"]) for i in range(count)]
  errors = [key for key in z if key.startswith("estimating_error_o")]
  assert errors
  for key in errors:
    got = watch.estimating_error(weights, float(key.rpartition("_o")[2]))
    np.testing.assert_allclose(got, z[key], rtol=INDICATOR)
  got = watch.gradient_instability(grads)
  np.testing.assert_allclose(got, z["gradient_instability"], rtol=INDICATOR)
  z.all_read()
