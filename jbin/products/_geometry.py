"""Where the axes of a product's operands go."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax


@dataclasses.dataclass(frozen=True)
class Geometry:
  """Where the axes of both operands go: what scales and forms need to know.

  Attributes:
    apply: `(lhs, rhs, sum dtype or None) -> out`, linear in each operand.
    lhs_out: for each axis of the left operand, its axis in the result, or
      None if it is contracted (or a window slides over it).
    rhs_out: the same for the right operand.
    out_ndim: the result's rank.
    kind: "dot" or "conv".
    groups: feature groups, or the number of batched products.
    spread: whether a convolution's input has zeros between its elements.
    rowwise: whether it is a matrix product that sums over the left operand's
      last axes.
    pull: `(left operand, cotangent of the result, whether that operand is
      codes) ->` the right operand's cotangent. None: the transpose of `apply`.
  """

  apply: Callable[[jax.Array, jax.Array, Any], jax.Array]
  lhs_out: tuple[int | None, ...]
  rhs_out: tuple[int | None, ...]
  out_ndim: int
  kind: Literal["dot", "conv"]
  groups: int = 1
  spread: bool = False
  rowwise: bool = False
  pull: Callable[[jax.Array, jax.Array, bool], jax.Array] | None = None


def spread(
  scale: jax.Array, out: tuple[int | None, ...], ndim: int
) -> jax.Array:
  """A scale, its axes put where the result has them."""
  shape = [1] * ndim
  order = [axis for axis in range(scale.ndim) if out[axis] is not None]
  order.sort(key=lambda axis: out[axis] or 0)
  for axis in order:
    shape[out[axis] or 0] = scale.shape[axis]
  kept = lax.transpose(
    scale,
    [*order, *(a for a in range(scale.ndim) if out[a] is None)],
  )
  return jnp.reshape(kept, shape)
