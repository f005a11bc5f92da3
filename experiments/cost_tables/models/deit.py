"""DeiT: a vision transformer of 16x16 patches (arXiv 2012.12877).

An ordinary float model of Flax's own layers; BiViT's rules reach all of it,
the products of the attention too.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.cost_tables.models import parts

PATCH = 16
TOKENS = 1 + (224 // PATCH) ** 2


class Deit(nnx.Module):
  """Patches, a class token, positions, blocks, classifier."""

  def __init__(
    self,
    dim: int,
    heads: int,
    depth: int = 12,
    num_classes: int = 1000,
    *,
    rngs: nnx.Rngs,
  ):
    self.patches = nnx.Conv(
      3, dim, (PATCH, PATCH), (PATCH, PATCH), padding="VALID", rngs=rngs
    )
    self.token = nnx.Param(jnp.zeros((1, 1, dim)))
    self.positions = nnx.Param(jnp.zeros((1, TOKENS, dim)))
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
    self.norm = nnx.LayerNorm(dim, rngs=rngs)
    self.head = nnx.Linear(dim, num_classes, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    """(N, 224, 224, 3) to (N, num_classes)."""
    x = parts.conv(self.patches, x)
    x = jnp.reshape(x, (x.shape[0], -1, x.shape[-1]))
    token = jnp.broadcast_to(self.token[...], (x.shape[0], 1, x.shape[-1]))
    x = jnp.concatenate([token, x], 1) + self.positions[...]
    for block in self.blocks:
      x = block(x)
    return self.head(parts.norm(self.norm, x)[:, 0])


def tiny(*, rngs: nnx.Rngs) -> Deit:
  """DeiT-T."""
  return Deit(192, 3, rngs=rngs)


def base(*, rngs: nnx.Rngs) -> Deit:
  """DeiT-B."""
  return Deit(768, 12, rngs=rngs)
