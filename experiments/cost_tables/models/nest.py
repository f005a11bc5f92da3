"""NesT: transformers in blocks of 14x14 that are merged (arXiv 2105.12723).

Attention runs inside each block of the image: the blocks are a batch axis of
Flax's own attention, so that rules reach its products.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.cost_tables.models import parts

SIZE = 14  # of a block's sides, in tokens


class Merge(nnx.Module):
  """Between levels: a 3x3 convolution, a norm, a max-pool of stride 2."""

  def __init__(self, before: int, dim: int, *, rngs: nnx.Rngs):
    self.conv = nnx.Conv(before, dim, (3, 3), rngs=rngs)
    self.norm = nnx.LayerNorm(dim, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    """(N, H, W, before) to (N, H / 2, W / 2, dim)."""
    x = parts.norm(self.norm, parts.conv(self.conv, x))
    return nnx.max_pool(x, (3, 3), (2, 2), padding="SAME")


class Level(nnx.Module):
  """Transformer blocks on an image that is cut into blocks."""

  def __init__(
    self, dim: int, heads: int, depth: int, count: int, *, rngs: nnx.Rngs
  ):
    self.positions = nnx.Param(jnp.zeros((1, count, SIZE * SIZE, dim)))
    self.blocks = nnx.List(
      [
        parts.Block(
          dim,
          nnx.MultiHeadAttention(heads, dim, decode=False, rngs=rngs),
          parts.Mlp(dim, 4, rngs=rngs),
          rngs=rngs,
        )
        for _ in range(depth)
      ]
    )

  def __call__(self, x: jax.Array) -> jax.Array:
    """(N, H, W, dim) to the same."""
    height = x.shape[1]
    x = parts.windows(x, SIZE) + self.positions[...]
    for block in self.blocks:
      x = block(x)
    return parts.image(x, height)


class Nest(nnx.Module):
  """Patches, three levels with merges between them, mean, classifier."""

  def __init__(
    self,
    depths: Sequence[int],
    dims: Sequence[int] = (96, 192, 384),
    heads: Sequence[int] = (3, 6, 12),
    num_classes: int = 1000,
    *,
    rngs: nnx.Rngs,
  ):
    self.patches = nnx.Conv(3, dims[0], (4, 4), (4, 4), rngs=rngs)
    self.merges = nnx.List(
      [Merge(a, b, rngs=rngs) for a, b in itertools.pairwise(dims)]
    )
    last = len(dims) - 1
    self.levels = nnx.List(
      [
        Level(dim, h, depth, 4 ** (last - i), rngs=rngs)
        for i, (dim, h, depth) in enumerate(
          zip(dims, heads, depths, strict=True)
        )
      ]
    )
    self.norm = nnx.LayerNorm(dims[-1], rngs=rngs)
    self.head = nnx.Linear(dims[-1], num_classes, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    """(N, 224, 224, 3) to (N, num_classes)."""
    x = self.levels[0](parts.conv(self.patches, x))
    for merge, level in zip(self.merges, self.levels[1:], strict=True):
      x = level(merge(x))
    return self.head(parts.norm(self.norm, x).mean((1, 2)))


def tiny(*, rngs: nnx.Rngs) -> Nest:
  """NesT-T."""
  return Nest((2, 2, 8), rngs=rngs)


def small(*, rngs: nnx.Rngs) -> Nest:
  """NesT-S."""
  return Nest((2, 2, 20), rngs=rngs)
