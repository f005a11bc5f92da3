"""The U-Net of LDM-4, a latent diffusion model (arXiv 2112.10752).

64x64x3 latents, 224 channels times 1 to 4, two residual blocks a level and
attention below the first. Blocks carry the numbers that the official code
gives them: `input_blocks/0` is the first convolution, `out` the last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

DIM, TIMES, BLOCKS, HEAD = 224, (1, 2, 3, 4), 2, 32
SIDE, CHANNELS, GROUPS = 64, 3, 32

# Makes the function of one attention block.
MakeAttention = Callable[[], Any]


def _conv(before: int, dim: int, size: int, stride: int, rngs: Any) -> nnx.Conv:
  edge = (size // 2, size // 2)
  return nnx.Conv(
    before,
    dim,
    (size, size),
    (stride, stride),
    padding=(edge, edge),
    rngs=rngs,
  )


def _norm(dim: int, rngs: Any) -> nnx.GroupNorm:
  return nnx.GroupNorm(dim, num_groups=GROUPS, epsilon=1e-5, rngs=rngs)


class Residual(nnx.Module):
  """Two convolutions; the time is added between them."""

  def __init__(self, before: int, dim: int, *, rngs: nnx.Rngs):
    self.norm1 = _norm(before, rngs)
    self.conv1 = _conv(before, dim, 3, 1, rngs)
    self.time = nnx.Linear(4 * DIM, dim, rngs=rngs)
    self.norm2 = _norm(dim, rngs)
    self.conv2 = _conv(dim, dim, 3, 1, rngs)
    self.skip: nnx.Conv | None = nnx.data(
      None if before == dim else _conv(before, dim, 1, 1, rngs)
    )

  def __call__(self, x: jax.Array, time: jax.Array) -> jax.Array:
    """(N, H, W, before) and (N, 4 DIM) to (N, H, W, dim)."""
    y = self.conv1(nnx.silu(self.norm1(x)))
    y = y + self.time(nnx.silu(time))[:, None, None]
    y = self.conv2(nnx.silu(self.norm2(y)))
    return y + (x if self.skip is None else self.skip(x))


class Attention(nnx.Module):
  """Attention among all positions; its maps are 1x1 convolutions."""

  def __init__(self, dim: int, make: MakeAttention, *, rngs: nnx.Rngs):
    self.norm = _norm(dim, rngs)
    self.qkv = nnx.Conv(dim, 3 * dim, (1,), rngs=rngs)
    self.attend: Any = make()
    self.proj = nnx.Conv(dim, dim, (1,), rngs=rngs)

  def __call__(self, x: jax.Array, time: jax.Array) -> jax.Array:
    """(N, H, W, dim) to the same."""
    del time
    y = jnp.reshape(self.norm(x), (x.shape[0], -1, x.shape[-1]))
    qkv = jnp.reshape(self.qkv(y), (*y.shape[:2], -1, 3 * HEAD))
    y = jnp.reshape(self.attend(*jnp.split(qkv, 3, -1)), y.shape)
    return x + jnp.reshape(self.proj(y), x.shape)


class Convolution(nnx.Module):
  """A 3x3 convolution, of every second position or of the doubled image."""

  def __init__(
    self,
    before: int,
    dim: int,
    stride: int = 1,
    *,
    double: bool = False,
    rngs: nnx.Rngs,
  ):
    self.double = double
    self.conv = _conv(before, dim, 3, stride, rngs)

  def __call__(self, x: jax.Array, time: jax.Array) -> jax.Array:
    """(N, H, W, before) to (N, H', W', dim)."""
    del time
    if self.double:
      x = jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)
    return self.conv(x)


Block = Residual | Attention | Convolution


class UNet(nnx.Module):
  """Down and up again; each block up also gets the result of one down."""

  def __init__(
    self,
    attention: MakeAttention = lambda: nnx.dot_product_attention,
    *,
    rngs: nnx.Rngs,
  ):
    def level(before: int, i: int) -> list[Block]:
      dim = DIM * TIMES[i]
      parts: list[Block] = [Residual(before, dim, rngs=rngs)]
      return parts + ([Attention(dim, attention, rngs=rngs)] if i else [])

    self.time1 = nnx.Linear(DIM, 4 * DIM, rngs=rngs)
    self.time2 = nnx.Linear(4 * DIM, 4 * DIM, rngs=rngs)
    down: list[list[Block]] = [[Convolution(CHANNELS, DIM, rngs=rngs)]]
    dim, dims = DIM, [DIM]
    for i, times in enumerate(TIMES):
      for _ in range(BLOCKS):
        down.append(level(dim, i))
        dim = DIM * times
        dims.append(dim)
      if i + 1 < len(TIMES):
        down.append([Convolution(dim, dim, 2, rngs=rngs)])
        dims.append(dim)
    middle: list[Block] = [
      Residual(dim, dim, rngs=rngs),
      Attention(dim, attention, rngs=rngs),
      Residual(dim, dim, rngs=rngs),
    ]
    up: list[list[Block]] = []
    for i, times in reversed(list(enumerate(TIMES))):
      for j in range(BLOCKS + 1):
        block = level(dim + dims.pop(), i)
        dim = DIM * times
        if i and j == BLOCKS:
          block.append(Convolution(dim, dim, double=True, rngs=rngs))
        up.append(block)
    self.input_blocks = nnx.List([nnx.List(block) for block in down])
    self.middle_block = nnx.List(middle)
    self.output_blocks = nnx.List([nnx.List(block) for block in up])
    self.norm = _norm(dim, rngs)
    self.out = _conv(dim, CHANNELS, 3, 1, rngs)

  def __call__(self, x: jax.Array, steps: jax.Array) -> jax.Array:
    """(N, SIDE, SIDE, CHANNELS) and (N,) steps of time to the former."""
    time = self.time2(nnx.silu(self.time1(waves(steps))))
    kept = []
    for block in self.input_blocks:
      x = _through(block, x, time)
      kept.append(x)
    x = _through(self.middle_block, x, time)
    for block in self.output_blocks:
      x = _through(block, jnp.concatenate([x, kept.pop()], -1), time)
    return self.out(nnx.silu(self.norm(x)))


def _through(
  block: Sequence[Block], x: jax.Array, time: jax.Array
) -> jax.Array:
  for part in block:
    x = part(x, time)
  return x


def waves(steps: jax.Array) -> jax.Array:
  """(N,) to (N, DIM): cosines and sines of the step."""
  half = DIM // 2
  speed = jnp.exp(-math.log(10_000) / half * jnp.arange(half))
  angle = jnp.outer(steps, speed)
  return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], -1)
