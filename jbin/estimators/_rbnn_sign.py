"""The training-aware polynomial sign of RBNN."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jbin import references
from jbin.estimators import _base, _surrogate

_ROOT = np.float32(np.sqrt(2))


def _factor(x: jax.Array, t: jax.Array, k: jax.Array) -> jax.Array:
  return k * t * jnp.maximum(_ROOT - t * jnp.abs(x), 0)


@_base.REGISTRY.register
@references.cites("rbnn")
def rbnn_sign(
  x: jax.Array,
  t: float | jax.Array,
  *,
  k: float | jax.Array | None = None,
  zero: float = 1.0,
) -> jax.Array:
  """Sign with the gradient of a parabola that narrows (RBNN).

  Forward `y = +1 if x >= 0 else -1`; backward
  `dx = dy * k * max(0, sqrt(2) t - t^2 |x|)`: `sqrt(2) k t` at zero, 0 from
  `|x| = sqrt(2) / t` on.
  At zero: `y = +1`, unless `zero` says otherwise (the code has 0).

  Args:
    x: floating, any shape; the result has its shape and dtype.
    t: the sharpness, positive; a number, or an array that broadcasts with `x`
      (scalar or same rank). Gets no gradient, nor does k.
    k: the height; None for `max(1 / t, 1)`, as the code has it for weights.
    zero: the value at 0 and -0.

  The residual is `x`; the factor is taken in float32. Reference: Lin et al.,
  Rotated Binary Neural Network, 2020 (arXiv 2009.13055). Differs from the
  code in nothing but sign(0).
  """
  return _surrogate.sign_with(_factor, x, _surrogate.sharpness(t, k), zero)
