"""BinaryConnect's random sign."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jbin import references
from jbin.estimators import _base, _window


@_base.REGISTRY.register
@references.cites("binaryconnect")
def stochastic_sign(
  x: jax.Array, draw: float | jax.Array, h: float | jax.Array = 1.0
) -> jax.Array:
  """+1 with a probability that grows with `x`, identity gradient.

  `p = clip((x / h + 1) / 2, 0, 1)`; forward `y = +1 if draw < p else -1`;
  backward `dx = dy`. At zero: p is 1/2, so either. With draws uniform in
  [0, 1) the mean of `h y` is `clip(x, -h, h)`.

  Args:
    x: floating, any shape; the result has its shape and dtype.
    draw: numbers in [0, 1), of the shape of `x` or a scalar: the caller draws
      (`jax.random.uniform`), so that the function itself is pure.
    h: where p reaches 1, positive; gets no gradient, nor does `draw`.

  There is no residual. Second derivative: 0. Reference: Courbariaux et al.,
  BinaryConnect, 2015 (arXiv 1511.00363). Differs from the code in: the caller
  draws.
  """
  h = jnp.asarray(h, jnp.float32)
  p = jnp.clip((x.astype(jnp.float32) / h + 1) / 2, 0.0, 1.0)
  y = jnp.where(draw < p, 1.0, -1.0).astype(x.dtype)
  return _window.pass_inside(x, y, None)
