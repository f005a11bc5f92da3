"""Swin Transformer: attention in shifted windows of 7x7 (arXiv 2103.14030).

The attention is written out with `jnp.einsum`, with its relative positions
and its mask; a function for each of its four factors may make them low-bit
(`Factors`), as a user's own code would.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.cost_tables.models import parts

WINDOW = 7


def _same(x: jax.Array) -> jax.Array:
  return x


class Factors(NamedTuple):
  """What becomes of queries, keys, probabilities and values; floats as is."""

  query: Callable[[jax.Array], jax.Array] = _same
  key: Callable[[jax.Array], jax.Array] = _same
  weights: Callable[[jax.Array], jax.Array] = _same
  value: Callable[[jax.Array], jax.Array] = _same


FLOATS = Factors()


def _offsets() -> np.ndarray:
  """(49, 49): which row of the table a pair of positions has."""
  at = np.indices((WINDOW, WINDOW)).reshape(2, -1)
  apart = at[:, :, None] - at[:, None, :] + WINDOW - 1
  return apart[0] * (2 * WINDOW - 1) + apart[1]


def _mask(height: int, shift: int) -> jax.Array:
  """(windows, 49, 49): whether two positions were together before the shift."""
  cuts = [height - WINDOW, height - shift]
  part = np.searchsorted(cuts, np.arange(height), "right")
  parts_of = jnp.asarray(3 * part[:, None] + part)[None, ..., None]
  found = parts.windows(parts_of, WINDOW)[0, ..., 0]
  return found[:, :, None] == found[:, None, :]


class WindowAttention(nnx.Module):
  """Multi-head attention inside windows, shifted or not."""

  def __init__(
    self,
    dim: int,
    heads: int,
    height: int,
    shift: int,
    factors: Factors,
    *,
    rngs: nnx.Rngs,
  ):
    self.heads, self.shift, self.height = heads, shift, height
    self.factors = nnx.static(factors)
    self.qkv = nnx.Linear(dim, 3 * dim, rngs=rngs)
    self.proj = nnx.Linear(dim, dim, rngs=rngs)
    self.table = nnx.Param(jnp.zeros(((2 * WINDOW - 1) ** 2, heads)))

  def __call__(self, x: jax.Array) -> jax.Array:
    """(N, H, W, dim) to the same."""
    x = jnp.roll(x, (-self.shift, -self.shift), (1, 2))
    x = parts.windows(x, WINDOW)
    qkv = jnp.reshape(self.qkv(x), (*x.shape[:-1], 3, self.heads, -1))
    q, k, v = (qkv[..., i, :, :] for i in range(3))
    q, k, v = self.factors.query(q), self.factors.key(k), self.factors.value(v)
    scores = jnp.einsum("bwqhd,bwkhd->bwhqk", q, k) / q.shape[-1] ** 0.5
    bias = jnp.moveaxis(self.table[...][_offsets()], -1, 0)
    scores += bias[None, None]
    if self.shift:
      allowed = _mask(self.height, self.shift)[None, :, None]
      scores = jnp.where(allowed, scores, -1e9)
    weights = self.factors.weights(jax.nn.softmax(scores))
    y = jnp.einsum("bwhqk,bwkhd->bwqhd", weights, v)
    y = parts.image(self.proj(jnp.reshape(y, x.shape)), self.height)
    return jnp.roll(y, (self.shift, self.shift), (1, 2))


class Merge(nnx.Module):
  """Four neighbours side by side, a norm, a linear map to half of them."""

  def __init__(self, dim: int, *, rngs: nnx.Rngs):
    self.norm = nnx.LayerNorm(4 * dim, rngs=rngs)
    self.linear = nnx.Linear(4 * dim, 2 * dim, use_bias=False, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    """(N, H, W, dim) to (N, H / 2, W / 2, 2 dim)."""
    rows = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
    return self.linear(parts.norm(self.norm, jnp.concatenate(rows, -1)))


class Swin(nnx.Module):
  """Patches, four stages with merges between them, mean, classifier."""

  def __init__(
    self,
    depths: Sequence[int],
    dim: int = 96,
    heads: Sequence[int] = (3, 6, 12, 24),
    num_classes: int = 1000,
    factors: Factors = FLOATS,
    *,
    rngs: nnx.Rngs,
  ):
    self.patches = nnx.Conv(3, dim, (4, 4), (4, 4), rngs=rngs)
    self.patches_norm = nnx.LayerNorm(dim, rngs=rngs)
    stages, merges = [], []
    for i, (depth, n) in enumerate(zip(depths, heads, strict=True)):
      wide, height = dim * 2**i, 56 >> i
      if i:
        merges.append(Merge(wide // 2, rngs=rngs))
      shift = WINDOW // 2 if height > WINDOW else 0
      stages.append(
        nnx.List(
          [
            parts.Block(
              wide,
              WindowAttention(
                wide, n, height, shift * (j % 2), factors, rngs=rngs
              ),
              parts.Mlp(wide, 4, rngs=rngs),
              rngs=rngs,
            )
            for j in range(depth)
          ]
        )
      )
    self.stages, self.merges = nnx.List(stages), nnx.List(merges)
    self.norm = nnx.LayerNorm(wide, rngs=rngs)
    self.head = nnx.Linear(wide, num_classes, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    """(N, 224, 224, 3) to (N, num_classes)."""
    x = parts.norm(self.patches_norm, parts.conv(self.patches, x))
    for i, stage in enumerate(self.stages):
      if i:
        x = self.merges[i - 1](x)
      for block in stage:
        x = block(x)
    return self.head(parts.norm(self.norm, x).mean((1, 2)))


def tiny(factors: Factors = FLOATS, *, rngs: nnx.Rngs) -> Swin:
  """Swin-T."""
  return Swin((2, 2, 6, 2), factors=factors, rngs=rngs)


def small(factors: Factors = FLOATS, *, rngs: nnx.Rngs) -> Swin:
  """Swin-S."""
  return Swin((2, 2, 18, 2), factors=factors, rngs=rngs)
