"""Batch normalisation that the cost report can see."""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx

from jbin import bits


class _RunningStat(nnx.BatchStat[jax.Array]):
  """A `BatchStat` that is replaced whole.

  Flax asks both arrays for their sharding before it does so, and JAX words a
  tracer's refusal from all equations so far, which a deep net feels.
  """

  def __setitem__(self, key: Any, value: jax.Array) -> None:
    if key is ... and value.shape == self.shape and value.dtype == self.dtype:
      self.set_value(value)
    else:
      super().__setitem__(key, value)


class BatchNorm(nnx.BatchNorm):
  """`nnx.BatchNorm`, bit for bit, marked for the cost report.

  One scalar operation for each element, since a deployed norm is one
  multiply-add. Under a sharded `jit` the statistics are those of the global
  batch.
  """

  def __init__(self, num_features: int, *, rngs: nnx.Rngs, **kwargs: Any):
    """Makes the layer; arguments as for `nnx.BatchNorm`."""
    super().__init__(num_features, rngs=rngs, **kwargs)
    for name in ("mean", "var"):
      stat: nnx.BatchStat[jax.Array] = getattr(self, name)
      metadata = stat.get_metadata()
      setattr(self, name, _RunningStat(stat.get_value(), **metadata))

  def __call__(self, x: jax.Array, *args: Any, **kwargs: Any) -> jax.Array:
    """Normalises over all axes but the last; same shape."""
    return bits.mark(super().__call__(x, *args, **kwargs), "batch_norm")
