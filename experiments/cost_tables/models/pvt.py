"""PVTv2 without spatial reduction, as EcoFormer has it (arXiv 2106.13797).

The first three stages have EcoFormer's attention or softmax attention on all
tokens; the last always has the latter.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.cost_tables.models import ecoformer, parts

# Dims of the four stages, and blocks in each.
SIZES = {
  "B0": ((32, 64, 160, 256), (2, 2, 2, 2)),
  "B1": ((64, 128, 320, 512), (2, 2, 2, 2)),
  "B2": ((64, 128, 320, 512), (3, 4, 6, 3)),
  "B3": ((64, 128, 320, 512), (3, 4, 18, 3)),
  "B4": ((64, 128, 320, 512), (3, 8, 27, 3)),
}
HEADS, RATIOS = (1, 2, 5, 8), (8, 8, 4, 4)


class ConvMlp(nnx.Module):
  """Linear, depthwise 3x3 convolution, GELU, linear."""

  def __init__(self, dim: int, ratio: int, *, rngs: nnx.Rngs):
    wide = ratio * dim
    self.fc1 = nnx.Linear(dim, wide, rngs=rngs)
    self.depthwise = nnx.Conv(
      wide, wide, (3, 3), feature_group_count=wide, rngs=rngs
    )
    self.fc2 = nnx.Linear(wide, dim, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    """(N, tokens, dim) to the same; the tokens are a square."""
    x = self.fc1(x)
    side = round(x.shape[1] ** 0.5)
    image = jnp.reshape(x, (x.shape[0], side, side, x.shape[-1]))
    image = parts.conv(self.depthwise, image)
    x = jnp.reshape(image, x.shape)
    return self.fc2(jax.nn.gelu(x, approximate=False))


class Stage(nnx.Module):
  """Overlapping patches, a norm, blocks, a norm."""

  def __init__(
    self,
    before: int,
    dim: int,
    window: tuple[int, int],
    heads: int,
    ratio: int,
    depth: int,
    attention: type[nnx.Module],
    *,
    rngs: nnx.Rngs,
  ):
    size, stride = window
    self.patches = nnx.Conv(
      before,
      dim,
      (size, size),
      (stride, stride),
      padding=(size // 2, size // 2),
      rngs=rngs,
    )
    self.patches_norm = nnx.LayerNorm(dim, rngs=rngs)
    self.blocks = nnx.List(
      [
        parts.Block(
          dim,
          attention(dim, heads, rngs=rngs),
          ConvMlp(dim, ratio, rngs=rngs),
          rngs=rngs,
        )
        for _ in range(depth)
      ]
    )
    self.norm = nnx.LayerNorm(dim, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    """(N, H, W, before) to (N, H / stride, W / stride, dim)."""
    x = parts.conv(self.patches, x)
    shape = x.shape
    x = jnp.reshape(x, (shape[0], -1, shape[-1]))
    x = parts.norm(self.patches_norm, x)
    for block in self.blocks:
      x = block(x)
    return jnp.reshape(parts.norm(self.norm, x), shape)


class Pvt(nnx.Module):
  """Four stages, mean, classifier."""

  def __init__(
    self,
    dims: Sequence[int],
    depths: Sequence[int],
    attention: type[nnx.Module] = ecoformer.HashAttention,
    num_classes: int = 1000,
    *,
    rngs: nnx.Rngs,
  ):
    stages, before = [], 3
    for i, (dim, depth) in enumerate(zip(dims, depths, strict=True)):
      stages.append(
        Stage(
          before,
          dim,
          (3, 2) if i else (7, 4),
          HEADS[i],
          RATIOS[i],
          depth,
          attention if i < len(dims) - 1 else ecoformer.Attention,
          rngs=rngs,
        )
      )
      before = dim
    self.stages = nnx.List(stages)
    self.head = nnx.Linear(before, num_classes, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    """(N, 224, 224, 3) to (N, num_classes)."""
    for stage in self.stages:
      x = stage(x)
    return self.head(x.mean((1, 2)))
