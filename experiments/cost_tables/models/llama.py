"""A Llama-type decoder: RMSNorm, rotations, grouped queries, SwiGLU.

Paper: arXiv 2302.13971; grouped queries: arXiv 2305.13245. Layers are stacked
and scanned, or one after another in the program, as most code has them.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.cost_tables.models import stacks

EPSILON = 1e-5
BASE = 10_000.0  # of the rotations' wave lengths


@dataclasses.dataclass(frozen=True)
class Size:
  """What a model's size is made of; `groups` heads share a key and a value."""

  dim: int
  depth: int
  wide: int
  heads: int
  groups: int = 1
  vocabulary: int = 32000

  @property
  def head_dim(self) -> int:
    """Channels of a head."""
    return self.dim // self.heads


# FBI-LLM's three sizes (arXiv 2407.07093); "7B" is that of Llama 2 too.
SIZES = {
  "130M": Size(768, 12, 2048, 12),
  "1.3B": Size(2048, 24, 5632, 32),
  "7B": Size(4096, 32, 11008, 32),
}


class Attention(nnx.Module):
  """Causal attention of rotated queries and keys."""

  def __init__(self, size: Size, dtype: Any, *, rngs: nnx.Rngs):
    self.size = size
    linear = functools.partial(
      nnx.Linear, use_bias=False, dtype=dtype, param_dtype=dtype, rngs=rngs
    )
    shared = size.dim // size.groups
    self.q_proj = linear(size.dim, size.dim)
    self.k_proj = linear(size.dim, shared)
    self.v_proj = linear(size.dim, shared)
    self.o_proj = linear(size.dim, size.dim)

  def __call__(self, x: jax.Array, positions: jax.Array) -> jax.Array:
    """(N, length, dim) to the same."""
    split = (*x.shape[:-1], -1, self.size.head_dim)
    q, k, v = (
      jnp.reshape(project(x), split)
      for project in (self.q_proj, self.k_proj, self.v_proj)
    )
    q, k = rotated(q, positions), rotated(k, positions)
    y = jax.nn.dot_product_attention(q, k, v, is_causal=True)
    return self.o_proj(jnp.reshape(y, x.shape))


def rotated(x: jax.Array, positions: jax.Array) -> jax.Array:
  """Pairs of channels, half a head apart, turned by their position.

  Args:
    x: (N, length, heads, head_dim).
    positions: (length,).
  """
  half = x.shape[-1] // 2
  speed = BASE ** (-jnp.arange(half, dtype=jnp.float32) / half)
  angle = jnp.outer(positions, speed)[None, :, None]
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  a, b = jnp.split(x.astype(jnp.float32), 2, -1)
  turned = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)
  return turned.astype(x.dtype)


class Mlp(nnx.Module):
  """`down(silu(gate x) * up x)`."""

  def __init__(self, size: Size, dtype: Any, *, rngs: nnx.Rngs):
    linear = functools.partial(
      nnx.Linear, use_bias=False, dtype=dtype, param_dtype=dtype, rngs=rngs
    )
    self.gate_proj = linear(size.dim, size.wide)
    self.up_proj = linear(size.dim, size.wide)
    self.down_proj = linear(size.wide, size.dim)

  def __call__(self, x: jax.Array) -> jax.Array:
    """(..., dim) to (..., dim)."""
    return self.down_proj(nnx.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nnx.Module):
  """A pre-norm layer."""

  def __init__(self, size: Size, dtype: Any, *, rngs: nnx.Rngs):
    norm = functools.partial(
      nnx.RMSNorm,
      size.dim,
      epsilon=EPSILON,
      dtype=dtype,
      param_dtype=dtype,
      rngs=rngs,
    )
    self.norm1, self.norm2 = norm(), norm()
    self.attn = Attention(size, dtype, rngs=rngs)
    self.mlp = Mlp(size, dtype, rngs=rngs)

  def __call__(self, x: jax.Array, positions: jax.Array) -> jax.Array:
    """(N, length, dim) to the same."""
    x = x + self.attn(self.norm1(x), positions)
    return x + self.mlp(self.norm2(x))


class Llama(nnx.Module):
  """Embedding, layers, norm, head.

  Attributes:
    layers: a stack that is scanned, or, unless `scanned`, a list.
  """

  def __init__(
    self,
    size: Size,
    *,
    scanned: bool = True,
    dtype: Any = jnp.bfloat16,
    rngs: nnx.Rngs,
  ):
    make = functools.partial(Layer, size, dtype)
    self.embed = nnx.Embed(
      size.vocabulary, size.dim, dtype=dtype, param_dtype=dtype, rngs=rngs
    )
    self.layers: Any = (
      stacks.of(make, size.depth, rngs=rngs)
      if scanned
      else nnx.List([make(rngs=rngs) for _ in range(size.depth)])
    )
    self.norm = nnx.RMSNorm(
      size.dim, epsilon=EPSILON, dtype=dtype, param_dtype=dtype, rngs=rngs
    )
    self.lm_head = nnx.Linear(
      size.dim,
      size.vocabulary,
      use_bias=False,
      dtype=dtype,
      param_dtype=dtype,
      rngs=rngs,
    )

  def __call__(self, tokens: jax.Array) -> jax.Array:
    """(N, length) tokens to (N, length, vocabulary) scores."""
    positions = jnp.arange(tokens.shape[1])
    x = self.embed(tokens)
    if isinstance(self.layers, nnx.List):
      for layer in self.layers:
        x = layer(x, positions)
    else:
      x = stacks.run(self.layers, x, positions)
    return self.lm_head(self.norm(x))
