"""ReSTE's estimating error and gradient instability."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jbin import watch


def _layers():
  draw = np.random.default_rng(6).normal
  tree = {"a": draw(size=(4, 5)), "b": [draw(size=7), np.zeros(3)]}
  return jax.tree.map(np.float32, tree)


@pytest.mark.parametrize("o", [1.0, 1.7, 3.0])
def test_estimating_error(o):
  def norm(w):
    w = np.float64(w)
    gap = np.sign(w) - np.sign(w) * abs(w) ** (1 / o)
    return np.sqrt((gap**2).sum())

  want = sum(map(norm, jax.tree.leaves(_layers())))
  run = jax.jit(watch.estimating_error)
  np.testing.assert_allclose(run(_layers(), np.float32(o)), want, rtol=1e-5)


def test_estimating_error_falls_as_the_power_grows():
  errors = [watch.estimating_error(_layers(), o) for o in (1, 2, 3, 10, 1e6)]
  assert errors == sorted(errors, reverse=True)
  assert errors[-1] < 1e-4


def test_gradient_instability():
  want = sum(np.var(abs(g), ddof=1) for g in jax.tree.leaves(_layers()))
  got = jax.jit(watch.gradient_instability)(_layers())
  np.testing.assert_allclose(got, want, rtol=1e-5)


def test_nothing_one_weight_and_narrow_types():
  assert watch.estimating_error([], 3.0) == 0
  assert watch.gradient_instability([]) == 0
  assert watch.gradient_instability([np.ones(1, np.float32)]) == 0
  narrow = jax.tree.map(lambda w: jnp.asarray(w, jnp.bfloat16), _layers())
  wide = jax.tree.map(lambda w: w.astype(jnp.float32), narrow)
  for function in (
    lambda w: watch.estimating_error(w, 2.0),
    watch.gradient_instability,
  ):
    assert function(narrow).dtype == jnp.float32
    np.testing.assert_allclose(function(narrow), function(wide), rtol=1e-6)


def test_they_are_constants_for_a_gradient():
  for function in (
    lambda w: watch.estimating_error(w, 3.0),
    watch.gradient_instability,
  ):
    grads = jax.grad(function)(_layers())
    assert all((g == 0).all() for g in jax.tree.leaves(grads))
