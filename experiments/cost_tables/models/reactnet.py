"""ReActNet-A: MobileNet's shape, every binary convolution with a shortcut.

Paper: arXiv 2003.03488. A float network; rules make its body binary.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jbin import nn

# Channels and stride of each block.
BLOCKS = (
  (64, 1),
  (128, 2),
  (128, 1),
  (256, 2),
  (256, 1),
  (512, 2),
  *((512, 1),) * 5,
  (1024, 2),
  (1024, 1),
)


def _norm(features: int, dtype: Any, rngs: nnx.Rngs) -> nnx.BatchNorm:
  return nnx.BatchNorm(features, dtype=dtype, rngs=rngs)


class Unit(nnx.Module):
  """Convolution and norm."""

  def __init__(
    self, dim: int, size: int, stride: int, dtype: Any, *, rngs: nnx.Rngs
  ):
    self.conv = nnx.Conv(
      dim,
      dim,
      (size, size),
      (stride, stride),
      use_bias=False,
      dtype=dtype,
      rngs=rngs,
    )
    self.norm = _norm(dim, dtype, rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    """(N, H, W, dim) to (N, H / stride, W / stride, dim)."""
    return self.norm(self.conv(x))


class Block(nnx.Module):
  """3x3, then one 1x1, or two side by side where channels double."""

  def __init__(
    self, before: int, dim: int, stride: int, dtype: Any, *, rngs: nnx.Rngs
  ):
    self.stride = stride
    self.spatial = Unit(before, 3, stride, dtype, rngs=rngs)
    self.activation1 = nn.RPReLU(before, dtype=dtype)
    self.pointwise = nnx.List(
      [Unit(before, 1, 1, dtype, rngs=rngs) for _ in range(dim // before)]
    )
    self.activation2 = nn.RPReLU(dim, dtype=dtype)

  def __call__(self, x: jax.Array) -> jax.Array:
    """(N, H, W, before) to (N, H / stride, W / stride, dim)."""
    y = self.spatial(x)
    if self.stride > 1:
      x = nnx.avg_pool(x, (2, 2), (2, 2))
    x = self.activation1(x + y)
    return self.activation2(
      jnp.concatenate([x + unit(x) for unit in self.pointwise], -1)
    )


class ReActNet(nnx.Module):
  """Stem, thirteen blocks, mean, classifier."""

  def __init__(
    self,
    num_classes: int = 1000,
    *,
    dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
  ):
    dim = 32
    self.stem = nnx.Conv(
      3, dim, (3, 3), (2, 2), use_bias=False, dtype=dtype, rngs=rngs
    )
    self.stem_norm = _norm(dim, dtype, rngs)
    blocks = []
    for wide, stride in BLOCKS:
      blocks.append(Block(dim, wide, stride, dtype, rngs=rngs))
      dim = wide
    self.blocks = nnx.List(blocks)
    self.head = nnx.Linear(dim, num_classes, dtype=dtype, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    """(N, 224, 224, 3) to (N, num_classes)."""
    x = self.stem_norm(self.stem(x))
    for block in self.blocks:
      x = block(x)
    return self.head(x.mean((1, 2)))
