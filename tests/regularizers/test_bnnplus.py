"""BNN+'s regularizers; apart, since differences fail at their kinks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jbin import errors, regularizers

W = {
  "a": np.linspace(-0.3, 0.4, 24, dtype=np.float32).reshape(2, 3, 4),
  "b": np.array([0.0, -0.0, 0.25, -0.25, 0.5, -2.0], np.float32),
}
ALPHAS = {"a": np.float32(0.17), "b": np.float32(0.25)}
FUNCTIONS = {
  "r1": (regularizers.bnnplus_r1, abs, np.sign),
  "r2": (regularizers.bnnplus_r2, np.square, lambda e: 2 * e),
}
every = pytest.mark.parametrize(
  ("function", "penalty", "slope"), FUNCTIONS.values(), ids=FUNCTIONS
)


@every
@pytest.mark.parametrize("alpha", [0.25, None, ALPHAS], ids=str)
def test_value_and_gradients_are_the_formulas(function, penalty, slope, alpha):
  learned = alpha is ALPHAS
  run = jax.jit(
    jax.value_and_grad(
      lambda w, alpha: function(w, alpha, 0.5),
      argnums=(0, 1) if learned else 0,
    )
  )
  value, grads = run(W, alpha)
  dw, dalpha = grads if learned else (grads, None)
  want = 0.0
  for name, w in W.items():
    level = alpha[name] if learned else alpha
    level = abs(w).mean() if level is None else np.float32(level)
    gap = level - abs(w)
    want += 0.5 * penalty(gap).mean()
    to_w = -0.5 * slope(gap) * np.sign(w) / w.size
    np.testing.assert_allclose(dw[name], to_w, rtol=1e-5, atol=1e-8)
    if dalpha is not None:
      to_alpha = 0.5 * slope(gap).mean()
      np.testing.assert_allclose(dalpha[name], to_alpha, rtol=1e-5, atol=1e-7)
  np.testing.assert_allclose(value, want, rtol=1e-6)


@every
def test_narrow_weights_and_none(function, penalty, slope):
  del penalty, slope
  narrow = jax.tree.map(lambda w: jnp.asarray(w, jnp.bfloat16), W)
  wide = jax.tree.map(lambda w: w.astype(jnp.float32), narrow)
  value, grads = jax.value_and_grad(function)(narrow)
  assert value.dtype == jnp.float32
  assert {g.dtype for g in jax.tree.leaves(grads)} == {jnp.dtype(jnp.bfloat16)}
  np.testing.assert_allclose(value, function(wide), rtol=1e-6)
  assert function([]) == function([], 0.5) == 0


@every
def test_alphas_are_one_or_as_many_as_tensors(function, penalty, slope):
  del penalty, slope
  with pytest.raises(errors.UserError, match="3 alphas for 2 tensors"):
    function(W, [0.1, 0.2, 0.3])
