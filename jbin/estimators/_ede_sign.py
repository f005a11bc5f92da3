"""The error decay estimator of IR-Net."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jbin import references
from jbin.estimators import _base, _surrogate


def _factor(x: jax.Array, t: jax.Array, k: jax.Array) -> jax.Array:
  # 1 - tanh(u)^2 without the cancellation.
  decay = jnp.exp(-2 * jnp.abs(t * x))
  return k * t * 4 * decay / jnp.square(1 + decay)


@_base.REGISTRY.register
@references.cites("irnet")
def ede_sign(
  x: jax.Array,
  t: float | jax.Array,
  *,
  k: float | jax.Array | None = None,
  zero: float = 1.0,
) -> jax.Array:
  """Sign with the gradient of `k tanh(t x)` (IR-Net's EDE; AdaBin too).

  Forward `y = +1 if x >= 0 else -1`; backward
  `dx = dy * k * t * (1 - tanh(t x)^2)`: a line of slope `k t` for a small t,
  nearly the sign for a great one.
  At zero: `y = +1`, unless `zero` says otherwise (the code has 0).

  Args:
    x: floating, any shape; the result has its shape and dtype.
    t: the sharpness, positive; a number, or an array that broadcasts with `x`
      (scalar or same rank). Gets no gradient, nor does k.
    k: the height; None for `max(1 / t, 1)`, as the code has it.
    zero: the value at 0 and -0.

  The residual is `x`; the factor is taken in float32. Reference: Qin et al.,
  Forward and Backward Information Retention for Accurate Binary Neural
  Networks, 2020 (arXiv 1909.10788). Differs from the code in nothing but
  sign(0).
  """
  return _surrogate.sign_with(_factor, x, _surrogate.sharpness(t, k), zero)
