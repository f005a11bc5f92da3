"""Regularizers that draw weights to levels: values and gradients in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jbin import regularizers

RNG = np.random.default_rng(0)
WEIGHTS = [
  RNG.normal(0, 0.3, (3, 2, 4)).astype(np.float32),
  np.float32([[0.0, 1.0], [-1.0, 0.25], [-0.5, -2.0]]),
]


def _bonn(w, nu, strength):
  """(value, gradient) with the statistics of each channel held."""
  size = np.abs(np.float64(w))
  over = tuple(range(w.ndim - 1))
  mean = size.mean(over, keepdims=True)
  var = size.var(over, keepdims=True)
  each = (size - mean) ** 2 + nu * ((size - mean) ** 2 / var + np.log(var))
  pull = strength * (1 + nu / var) * (size - mean) * np.sign(w)
  return 0.5 * strength * each.sum(), pull


def _proxquant(w, strength):
  gap = np.abs(np.float64(w)) - 1
  value = strength * np.abs(gap).mean()
  return value, strength * np.sign(gap) * np.sign(w) / w.size


@pytest.mark.parametrize(
  ("function", "formula", "hypers"),
  [
    (regularizers.bonn, _bonn, {"nu": 1e-3, "strength": 1e-4}),
    (regularizers.bonn, _bonn, {"nu": 0.0, "strength": 0.5}),
    (regularizers.bonn, _bonn, {"nu": 2.0, "strength": 1.0}),
    (regularizers.proxquant, _proxquant, {"strength": 0.3}),
  ],
)
def test_value_and_gradient(function, formula, hypers):
  hypers = {key: jnp.float32(value) for key, value in hypers.items()}
  run = jax.jit(jax.value_and_grad(lambda w, h: function(w, **h)))
  value, grads = run(WEIGHTS, hypers)
  parts = [
    formula(w, *(float(value) for value in hypers.values())) for w in WEIGHTS
  ]
  np.testing.assert_allclose(value, sum(part[0] for part in parts), rtol=1e-5)
  for grad, (_, want) in zip(grads, parts, strict=True):
    np.testing.assert_allclose(grad, want, rtol=1e-4, atol=1e-6)


def test_a_constant_channel_makes_no_nan():
  for fill in (0.0, 0.7, -0.7):
    w = [jnp.full((3, 3), fill)]
    value, (grad,) = jax.value_and_grad(regularizers.bonn)(w, 1.0)
    assert jnp.isfinite(value)
    np.testing.assert_allclose(grad, 0, atol=1e-6)
