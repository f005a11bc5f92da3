"""The piecewise polynomial sign of Bi-Real Net."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jbin import references
from jbin.estimators import _base, _surrogate


def _factor(x: jax.Array) -> jax.Array:
  return jnp.maximum(2 - 2 * jnp.abs(x), 0)


@_base.REGISTRY.register
@references.cites("bireal")
def approx_sign(x: jax.Array, *, zero: float = 1.0) -> jax.Array:
  """Sign with the gradient of a piecewise quadratic (Bi-Real Net).

  Forward `y = +1 if x >= 0 else -1`; backward
  `dx = dy * max(0, 2 - 2|x|)`: 2 at zero, 0 at +-1 and beyond.
  At zero: `y = +1`, unless `zero` says otherwise.

  Args:
    x: floating, any shape; the result has its shape and dtype.
    zero: the value at 0 and -0.

  The residual is `x`. Reference: Liu et al., Bi-Real Net, 2018
  (arXiv 1808.00278). Differs from the code in nothing but sign(0).
  """
  return _surrogate.sign_with(_factor, x, (), zero)
