"""Batch normalisation that the cost report can see."""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx

from jbin import bits


class BatchNorm(nnx.BatchNorm):
  """`nnx.BatchNorm`, bit for bit, marked for the cost report.

  One scalar operation for each element, since a deployed norm is one
  multiply-add. Under a sharded `jit` the statistics are those of the global
  batch.
  """

  def __call__(self, x: jax.Array, *args: Any, **kwargs: Any) -> jax.Array:
    """Normalises over all axes but the last; same shape."""
    return bits.mark(super().__call__(x, *args, **kwargs), "batch_norm")
