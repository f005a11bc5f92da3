"""The power-function sign of ReSTE."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jbin import errors, references
from jbin.estimators import _base, _surrogate


def _factor(
  x: jax.Array, o: jax.Array, t: jax.Array, m: jax.Array
) -> jax.Array:
  size = jnp.abs(x)
  near, inside = size <= m, size <= t
  # 1 stands in where the power is not used: 0 and infinity have none.
  base = jnp.where(inside & ~near, size, 1.0)
  curve = jnp.power(base, 1 / o - 1) / o
  secant = jnp.power(m, 1 / o - 1)
  return jnp.where(near, secant, jnp.where(inside, curve, 0.0))


@_base.REGISTRY.register
@references.cites("reste")
def reste_sign(
  x: jax.Array,
  o: float | jax.Array,
  *,
  t: float | jax.Array = 1.5,
  m: float | jax.Array = 0.1,
  zero: float = 1.0,
) -> jax.Array:
  """Sign with the gradient of `sign(x) |x|^(1/o)` (ReSTE).

  Forward `y = +1 if x >= 0 else -1`; backward `dx = dy * f`, where
  `f = m^(1/o - 1)` for `|x| <= m` (the secant's slope, zero included),
  `f = |x|^(1/o - 1) / o` for `m < |x| <= t`, and 0 beyond. `o = 1` is the
  straight-through sign with window t; a greater o is nearer to the sign.
  At zero: `y = +1`, unless `zero` says otherwise (the code has 0).

  Args:
    x: floating, any shape; the result has its shape and dtype.
    o: the power, 1 or more; a number, or an array that broadcasts with `x`
      (scalar or same rank). Gets no gradient, nor do t and m.
    t: where the gradient ends, t itself included.
    m: where the secant ends, m itself included; positive.
    zero: the value at 0 and -0.

  Raises:
    errors.UserError: if o is below 1, or m is not positive (numbers only; an
      array is not looked at).

  The residual is `x`; comparisons and powers are in float32. Reference: Wu et
  al., Estimator Meets Equilibrium Perspective, 2023 (arXiv 2308.06689).
  Differs from the code in nothing but sign(0).
  """
  if isinstance(o, (int, float)) and o < 1:
    raise errors.UserError(f"reste_sign: the power o must be >= 1, got {o}")
  if isinstance(m, (int, float)) and m <= 0:
    raise errors.UserError(f"reste_sign: m must be positive, got {m}")
  return _surrogate.sign_with(_factor, x, (o, t, m), zero)
