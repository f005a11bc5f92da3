"""The step from 0 to 1."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jbin import references
from jbin.estimators import _base, _window


@_base.REGISTRY.register
@references.cites("larq")
def ste_heaviside(
  x: jax.Array,
  clip: float | jax.Array | None = 1.0,
  *,
  edge: _base.Edge = "closed",
  zero: float = 0.0,
) -> jax.Array:
  """0 or 1 by the sign, straight-through inside a window (Larq; BiBERT).

  Forward `y = 1 if x > 0 else 0`; backward `dx = dy * [|x| <= clip]`
  (`< clip` if `edge="open"`; everywhere if `clip` is None). At zero: 0, unless
  `zero` says otherwise. BiBERT's bool has the open edge; its code has 0 at
  zero, its paper 1.

  Args:
    x: floating, any shape; the result has its shape and dtype.
    clip: the window's half width, a number or an array that broadcasts with
      `x` (same rank); gets no gradient. None: no window.
    edge: "closed" or "open".
    zero: the value at 0 and -0.

  Raises:
    errors.UserError: if the edge is unknown.

  The residual is one bit for each element. Second derivative: 0. Reference:
  Larq (Geiger and Team, 2020). Differs from it in nothing that is known.
  """
  y = (x >= 0 if zero == 1 else x > 0).astype(x.dtype)
  if zero not in (0, 1):
    y = jnp.where(x == 0, jnp.asarray(zero, x.dtype), y)
  return _window.pass_inside(x, y, clip, edge)
