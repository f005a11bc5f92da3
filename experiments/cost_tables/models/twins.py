"""Twins-SVT-S as EcoFormer has it (arXiv 2104.13840).

Every attention of the first three stages, inside groups and across them, is
EcoFormer's or softmax attention on all tokens; the last stage has the latter.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.cost_tables.models import ecoformer, parts

DIMS, HEADS, DEPTHS = (64, 128, 256, 512), (2, 4, 8, 16), (2, 2, 10, 4)


class Stage(nnx.Module):
  """Patches, a norm, blocks; positions come from a depthwise convolution."""

  def __init__(
    self,
    before: int,
    dim: int,
    stride: int,
    heads: int,
    depth: int,
    attention: type[nnx.Module],
    *,
    rngs: nnx.Rngs,
  ):
    window = (stride, stride)
    self.patches = nnx.Conv(before, dim, window, window, rngs=rngs)
    self.norm = nnx.LayerNorm(dim, rngs=rngs)
    self.positions = nnx.Conv(
      dim, dim, (3, 3), feature_group_count=dim, rngs=rngs
    )
    self.blocks = nnx.List(
      [
        parts.Block(
          dim,
          attention(dim, heads, rngs=rngs),
          parts.Mlp(dim, 4, rngs=rngs),
          rngs=rngs,
        )
        for _ in range(depth)
      ]
    )

  def __call__(self, x: jax.Array) -> jax.Array:
    """(N, H, W, before) to (N, H / stride, W / stride, dim)."""
    x = parts.norm(self.norm, parts.conv(self.patches, x))
    shape = x.shape
    for i, block in enumerate(self.blocks):
      x = jnp.reshape(x, (shape[0], -1, shape[-1]))
      x = jnp.reshape(block(x), shape)
      if i == 0:
        x = x + parts.conv(self.positions, x)
    return x


class Twins(nnx.Module):
  """Four stages, norm, mean, classifier."""

  def __init__(
    self,
    attention: type[nnx.Module] = ecoformer.HashAttention,
    num_classes: int = 1000,
    *,
    rngs: nnx.Rngs,
  ):
    stages, before = [], 3
    for i, (dim, heads, depth) in enumerate(
      zip(DIMS, HEADS, DEPTHS, strict=True)
    ):
      own = attention if i < len(DIMS) - 1 else ecoformer.Attention
      stages.append(
        Stage(before, dim, 2 if i else 4, heads, depth, own, rngs=rngs)
      )
      before = dim
    self.stages = nnx.List(stages)
    self.norm = nnx.LayerNorm(before, rngs=rngs)
    self.head = nnx.Linear(before, num_classes, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    """(N, 224, 224, 3) to (N, num_classes)."""
    for stage in self.stages:
      x = stage(x)
    return self.head(parts.norm(self.norm, x).mean((1, 2)))
