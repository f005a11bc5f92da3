"""What the architectures of this folder share; all are plain Flax NNX.

Norms, biases of convolutions and the like are marked (`jbin.bits.mark`), so
that a rule that charges for them can read their number off the program.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from jbin import bits

M = TypeVar("M", bound=nnx.Module)


def abstract(make: Callable[..., M], *args: Any, **kwargs: Any) -> M:
  """`make(*args, rngs=..., **kwargs)` without its arrays."""

  def build() -> M:
    # One key for all parameters: counting them is most of the tracing time.
    key = jax.random.key(0)
    rngs = types.SimpleNamespace(params=lambda: key, dropout=lambda: key)
    return make(*args, rngs=rngs, **kwargs)

  return nnx.eval_shape(build)


def norm(layer: nnx.Module, x: jax.Array) -> jax.Array:
  """A norm whose elements are counted as "layer_norm"."""
  return bits.mark(layer(x), "layer_norm")


def conv(layer: nnx.Conv, x: jax.Array) -> jax.Array:
  """A convolution whose additions of a bias are counted as "conv_bias"."""
  y = layer(x)
  return y if layer.bias is None else bits.mark(y, "conv_bias")


class Mlp(nnx.Module):
  """Linear, GELU, linear."""

  def __init__(self, dim: int, ratio: int, *, rngs: nnx.Rngs):
    self.fc1 = nnx.Linear(dim, ratio * dim, rngs=rngs)
    self.fc2 = nnx.Linear(ratio * dim, dim, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    """(..., dim) to (..., dim)."""
    return self.fc2(jax.nn.gelu(self.fc1(x), approximate=False))


class Block(nnx.Module):
  """A pre-norm transformer block around any attention and MLP."""

  def __init__(
    self, dim: int, attn: nnx.Module, mlp: nnx.Module, *, rngs: nnx.Rngs
  ):
    self.norm1 = nnx.LayerNorm(dim, rngs=rngs)
    self.attn = attn
    self.norm2 = nnx.LayerNorm(dim, rngs=rngs)
    self.mlp = mlp

  def __call__(self, x: jax.Array) -> jax.Array:
    """(..., dim) to (..., dim)."""
    x = x + self.attn(norm(self.norm1, x))
    return x + self.mlp(norm(self.norm2, x))


def windows(x: jax.Array, size: int) -> jax.Array:
  """(B, H, W, C) to (B, windows, size * size, C)."""
  b, h, w, c = x.shape
  x = jnp.reshape(x, (b, h // size, size, w // size, size, c))
  x = jnp.moveaxis(x, 3, 2)
  return jnp.reshape(x, (b, -1, size * size, c))


def image(x: jax.Array, height: int) -> jax.Array:
  """`windows` undone: (B, windows, size * size, C) to (B, H, W, C)."""
  b, n, tokens, c = x.shape
  size = round(tokens**0.5)
  rows = height // size
  x = jnp.reshape(x, (b, rows, n // rows, size, size, c))
  x = jnp.moveaxis(x, 2, 3)
  return jnp.reshape(x, (b, height, -1, c))
