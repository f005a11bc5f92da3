"""Rounding to integers inside a range, straight-through."""

from __future__ import annotations

import functools
from typing import Literal

import jax
import jax.numpy as jnp

from jbin import errors, references, residuals
from jbin.estimators import _base

Rounding = Literal["even", "up", "floor"]
_ROUND = {
  "even": jnp.round,
  "up": lambda x: jnp.floor(x + 0.5),
  "floor": jnp.floor,
}
_EDGES = ("closed", "open", "half")


def _window(x: jax.Array, low: float, high: float, edge: str) -> jax.Array:
  """The gradient's factor: boolean, or 0, 1, 2 halves where edges are ties."""
  if edge == "closed":
    return (x >= low) & (x <= high)
  if edge == "open":
    return (x > low) & (x < high)
  halves = (x >= low).astype(jnp.uint8) + (x > low) + (x <= high) + (x < high)
  return jnp.maximum(halves, 2) - 2


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4, 5, 6))
def _clipped_round(
  x: jax.Array,
  low: float,
  high: float,
  rounding: Rounding,
  edge: str,
  clip_first: bool,
  keep: residuals.Keep,
) -> jax.Array:
  del edge, keep
  if clip_first:
    return _ROUND[rounding](jnp.clip(x, low, high))
  return jnp.clip(_ROUND[rounding](x), low, high)


def _forward(
  x: jax.Array,
  low: float,
  high: float,
  rounding: Rounding,
  edge: str,
  clip_first: bool,
  keep: residuals.Keep,
) -> tuple[jax.Array, jax.Array]:
  y: jax.Array = _clipped_round(x, low, high, rounding, edge, clip_first, keep)
  seen = x if clip_first else _ROUND[rounding](x)
  if keep == "floats":
    return y, seen
  window = _window(seen, low, high, edge)
  return y, window if edge == "half" else residuals.pack(window)


def _backward(
  low: float,
  high: float,
  rounding: Rounding,
  edge: str,
  clip_first: bool,
  keep: residuals.Keep,
  kept: jax.Array,
  g: jax.Array,
) -> tuple[jax.Array]:
  del rounding, clip_first
  if keep == "floats":
    window = _window(kept, low, high, edge)
  elif edge == "half":
    window = kept
  else:
    window = residuals.unpack_like(kept, g)
  if edge == "half":
    return (g * (0.5 * window.astype(g.dtype)).astype(g.dtype),)
  return (jnp.where(window, g, jnp.zeros_like(g)),)


_clipped_round.defvjp(_forward, _backward)


@_base.REGISTRY.register
@references.cites("ste", "integer_only")
def clipped_round(
  x: jax.Array,
  low: float,
  high: float,
  *,
  rounding: Rounding = "even",
  edge: _base.Edge = "closed",
  clip_first: bool = True,
) -> jax.Array:
  """Integers from `low` to `high`, gradient 1 inside (straight-through).

  Forward `y = round(clip(x, low, high))`, or `clip(round(x), low, high)` with
  `clip_first=False`; backward `dx = dy * [low <= u <= high]`, where `u` is
  what the clip sees. On the edge: 1 ("closed"), 0 ("open") or 1/2 ("half").
  Ties between integers: to even, `floor(x + 1/2)` ("up"), or plain floor.
  At zero: 0 where 0 is in the range.

  Args:
    x: floating, any shape; the result has its shape and dtype.
    low: the least value, an integer unless `rounding` moves it onto one.
    high: the greatest value.
    rounding: "even", "up" or "floor".
    edge: the gradient on the edges.
    clip_first: whether the clip comes before the rounding.

  Raises:
    errors.UserError: if `low >= high`, or the rounding or edge is unknown.

  The residual is one bit for each element (a byte with "half"), or what the
  clip sees (`residuals.keeping("floats")`). Reference:
  Bengio et al., 2013 (arXiv 1308.3432). Differs from the paper in: it has the
  idea, not this function.
  """
  if low >= high:
    raise errors.UserError(f"clipped_round: low {low} is not below {high}")
  if rounding not in _ROUND:
    raise errors.UnknownName("rounding", rounding, _ROUND)
  if edge not in _EDGES:
    raise errors.UnknownName("edge", edge, _EDGES)
  return _clipped_round(
    x,
    float(low),
    float(high),
    rounding,
    edge,
    clip_first,
    residuals.kept(),
  )
