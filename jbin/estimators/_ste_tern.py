"""Larq's ternary sign."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jbin import references
from jbin.estimators import _base, _window


@_base.REGISTRY.register
@references.cites("larq", "twn")
def ste_tern(
  x: jax.Array,
  threshold: float | jax.Array = 0.05,
  clip: float | jax.Array | None = 1.0,
  *,
  keep_ties: bool = True,
  edge: _base.Edge = "closed",
) -> jax.Array:
  """-1, 0 or +1 by a threshold, straight-through inside a window (Larq).

  Forward `y = sign(x)` where `|x| >= threshold`, else 0; backward
  `dx = dy * [|x| <= clip]` (`< clip` if `edge="open"`; everywhere if `clip` is
  None). At zero: 0, whatever the threshold. At `|x| = threshold`: +-1, as
  Larq's code has it, or 0 with `keep_ties=False` (TWN; Larq's documentation).

  Args:
    x: floating, any shape; the result has its shape and dtype.
    threshold: a number or an array that broadcasts with `x` (same rank); gets
      no gradient.
    clip: the window's half width, in the same forms; None: no window.
    keep_ties: whether an entry on the threshold keeps its sign.
    edge: "closed" or "open".

  Raises:
    errors.UserError: if the edge is unknown.

  The residual is one bit for each element. Second derivative: 0. Reference:
  Larq (Geiger and Team, 2020); Li et al., Ternary Weight Networks, 2016 (arXiv
  1605.04711). Differs from Larq in nothing that is known.
  """
  threshold = jax.lax.stop_gradient(jnp.asarray(threshold, jnp.float32))
  if keep_ties:
    above, below = x >= threshold, x <= -threshold
  else:
    above, below = x > threshold, x < -threshold
  y = (above & (x > 0)).astype(x.dtype) - (below & (x < 0)).astype(x.dtype)
  return _window.pass_inside(x, y, clip, edge)
