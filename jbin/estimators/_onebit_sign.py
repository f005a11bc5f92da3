"""The sign of OneBit, whose gradient is nearly that of tanh."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jbin import references
from jbin.estimators import _base, _surrogate

_LEAST = 0.001  # of the factor, wherever x is


def _factor(x: jax.Array) -> jax.Array:
  # 1 - tanh(x)^2, whose digits a difference would lose.
  e = jnp.exp(-2 * jnp.abs(x))
  return _LEAST + 4 * e / jnp.square(1 + e)


@_base.REGISTRY.register
@references.cites("onebit")
def onebit_sign(x: jax.Array, *, zero: float = 1.0) -> jax.Array:
  """Sign with the gradient of tanh, which nowhere vanishes (OneBit).

  Forward `y = +1 if x >= 0 else -1`; backward `dx = dy * (1.001 - tanh(x)^2)`:
  1.001 at zero, 0.001 far away. At zero: `y = +1`, unless `zero` says
  otherwise.

  Args:
    x: floating, any shape; the result has its shape and dtype.
    zero: the value at 0 and -0.

  The residual is `x`. Reference: Xu et al., OneBit, 2024 (arXiv 2402.11295).
  Differs from the code in nothing but sign(0).
  """
  return _surrogate.sign_with(_factor, x, (), zero)
