"""What every regularizer promises, and the formulas of each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jbin import references, regularizers

WEIGHTS = {
  "a": np.linspace(-0.3, 0.4, 24, dtype=np.float32).reshape(2, 3, 4),
  "b": {"c": np.linspace(-0.2, 0.1, 10, dtype=np.float32)},
}


def _sum(part):
  leaves = [np.float64(leaf) for leaf in jax.tree.leaves(WEIGHTS)]
  return sum(part(leaf) for leaf in leaves)


# Options and formula of each: (weights -> value, w -> one tensor's part).
ROWS = {
  "biper": [
    (
      lambda w: regularizers.biper(w, 20.0, 0.05),
      lambda w: 0.05 * (np.sin(20 * w) ** 2).mean(),
    ),
    (
      lambda w: regularizers.biper(w, 20.0, 0.05, to_levels=True),
      lambda w: 0.05 * (np.cos(20 * w) ** 2).mean(),
    ),
  ]
}
MEMBERS = [
  pytest.param(*row, id=f"{name}-{i}")
  for name, rows in ROWS.items()
  for i, row in enumerate(rows)
]
every_row = pytest.mark.parametrize(("function", "part"), MEMBERS)


def test_every_regularizer_cites_its_paper():
  for name in regularizers.REGISTRY:
    assert references.of(regularizers.REGISTRY.get(name))


@every_row
def test_value_is_the_formula_and_gradient_its_difference(function, part):
  value, grads = jax.jit(jax.value_and_grad(function))(WEIGHTS)
  np.testing.assert_allclose(value, _sum(part), rtol=1e-5)
  flat = zip(jax.tree.leaves(WEIGHTS), jax.tree.leaves(grads), strict=True)
  for w, grad in flat:
    w, want = np.float64(w), np.zeros(w.shape)
    for at in np.ndindex(*w.shape):
      step = np.zeros_like(w)
      step[at] = 1e-5
      want[at] = (part(w + step) - part(w - step)) / 2e-5
    np.testing.assert_allclose(grad, want, rtol=1e-3, atol=1e-5)


@every_row
def test_narrow_weights_are_summed_in_float32(function, part):
  del part
  narrow = jax.tree.map(lambda w: jnp.asarray(w, jnp.bfloat16), WEIGHTS)
  wide = jax.tree.map(lambda w: w.astype(jnp.float32), narrow)
  value, grads = jax.value_and_grad(function)(narrow)
  assert value.dtype == jnp.float32
  assert {g.dtype for g in jax.tree.leaves(grads)} == {jnp.dtype(jnp.bfloat16)}
  np.testing.assert_allclose(value, function(wide), rtol=1e-6)


@every_row
def test_nothing_is_zero(function, part):
  del part
  assert function([]) == 0


def test_biper_s_errors():
  omega = 20.0
  error = jax.jit(regularizers.biper_error)(WEIGHTS, omega)
  want = _sum(
    lambda w: abs(np.sin(omega * w) - np.sign(np.sin(omega * w))).mean()
  )
  np.testing.assert_allclose(error, want, rtol=1e-5)
  spread = regularizers.biper_magnitude(WEIGHTS)
  np.testing.assert_allclose(spread, _sum(lambda w: abs(w).mean()), rtol=1e-6)
  for function in (regularizers.biper_error, lambda w, _: spread):
    grads = jax.grad(lambda w, f=function: f(w, omega))(WEIGHTS)
    assert all((g == 0).all() for g in jax.tree.leaves(grads))


def test_biper_s_error_of_uniform_phases():
  w = np.linspace(0, 2 * np.pi / 20, 100_000, endpoint=False, dtype=np.float32)
  error = regularizers.biper_error([w], 20.0)
  np.testing.assert_allclose(error, 1 - 2 / np.pi, atol=1e-3)
