"""The sign whose gradient is a truncated Fourier series (FDA-BNN)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jbin import references
from jbin.estimators import _base
from jbin.estimators._surrogate import sign_with


def _series(x: jax.Array, n: jax.Array, omega: jax.Array) -> jax.Array:
  """Sum of cos((2i + 1) omega x) over i = 0..n, for any whole n; float32.

  With m = n + 1 and s = sin(omega x) it is sin(2 m omega x) / (2 s), and
  next to a zero of s, up to the sign of the cosine there, its expansion
  m - s^2 m (4 m^2 - 1) / 6 (both are good to 3e-7 where they meet).
  """
  angle, m = omega * x, n + 1
  s = jnp.sin(angle)
  near = jnp.abs(s) * m < 0.02
  ratio = jnp.sin(2 * m * angle) / jnp.where(near, 1.0, 2 * s)
  expansion = m - jnp.square(s) * m * (4 * jnp.square(m) - 1) / 6
  turn = jnp.where(jnp.cos(angle) < 0, -1.0, 1.0)
  return jnp.where(near, turn * expansion, ratio)


def _factor(x: jax.Array, n: jax.Array, omega: jax.Array) -> jax.Array:
  inside = jnp.abs(x) <= 1
  total = _series(jnp.where(inside, x, 0.0), n, omega)
  return jnp.where(inside, np.float32(4 / np.pi) * omega * total, 0.0)


@_base.REGISTRY.register
@references.cites("fda")
def fda_sign(
  x: jax.Array,
  n: float | jax.Array,
  omega: float | jax.Array = 0.1,
  *,
  zero: float = 1.0,
) -> jax.Array:
  """Sign with the gradient of a square wave's first harmonics (FDA-BNN).

  Forward `y = +1 if x >= 0 else -1`; backward
  `dx = dy * (4 omega / pi) * sum_{i=0..n} cos((2i + 1) omega x) * [|x| <= 1]`,
  evaluated in closed form, `sin(2 (n + 1) omega x) / (2 sin(omega x))`: the
  cost does not grow with `n`, and another `n` does not recompile.
  At zero: `y = +1`, unless `zero` says otherwise; the factor is
  `4 omega (n + 1) / pi`. The window's edge belongs to it.

  Args:
    x: floating, any shape; the result has its shape and dtype.
    n: how many harmonics beside the first, a whole number, traced or not;
      scalar, or broadcasts with `x` (same rank). Gets no gradient.
    omega: the base frequency, the same; from pi on, digits are lost where the
      sine is zero.
    zero: the value at 0 and -0.

  The residual is `x`. Reference: Xu et al., FDA-BNN, 2021
  (arXiv 2103.00841). Differs from the paper in: the window is as BiBench's
  code has it.
  """
  return sign_with(_factor, x, (n, omega), zero)
