"""Mamba-2, a language model of state-space layers (arXiv 2405.21060).

Layers are stacked and scanned. Sequences use the chunked form, which is all
matrix products; one token after another uses the recurrence (`Mamba2.step`).
Arrays are in `dtype`, what runs through the state and the residual stream in
float32.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from experiments.cost_tables.models import stacks
from jbin import bits

EPSILON = 1e-5


@dataclasses.dataclass(frozen=True)
class Size:
  """What a model's size is made of; `vocabulary` has its padding."""

  dim: int
  depth: int
  vocabulary: int = 50288
  expand: int = 2
  head_dim: int = 64
  state: int = 128
  groups: int = 1
  window: int = 4
  chunk: int = 256

  @property
  def inner(self) -> int:
    """Width of the state's input and of the gate."""
    return self.expand * self.dim

  @property
  def heads(self) -> int:
    """Number of heads."""
    return self.inner // self.head_dim

  @property
  def mixed(self) -> int:
    """Channels of the convolution: input, B and C."""
    return self.inner + 2 * self.groups * self.state


SIZES = {
  "780M": Size(1536, 48),
  "1.3B": Size(2048, 48),
  "2.7B": Size(2560, 64),
}


class Cache(NamedTuple):
  """What one layer, or a stack of layers, keeps between tokens."""

  inputs: jax.Array
  # The last of the convolution: (N, window - 1, mixed).
  state: jax.Array
  # (N, heads, head_dim, state), float32.


class Mixer(nnx.Module):
  """Projection, convolution, state space, gated norm, projection."""

  def __init__(self, size: Size, dtype: Any, *, rngs: nnx.Rngs):
    self.size = size
    linear = functools.partial(
      nnx.Linear, use_bias=False, dtype=dtype, param_dtype=dtype, rngs=rngs
    )
    wide = size.inner + size.mixed + size.heads
    self.in_proj = linear(size.dim, wide)
    self.conv = nnx.Conv(
      size.mixed,
      size.mixed,
      (size.window,),
      feature_group_count=size.mixed,
      padding="VALID",
      dtype=dtype,
      param_dtype=dtype,
      rngs=rngs,
    )
    self.dt_bias = nnx.Param(jnp.zeros(size.heads, dtype))
    self.A_log = nnx.Param(jnp.zeros(size.heads, dtype))
    self.D = nnx.Param(jnp.ones(size.heads, dtype))
    self.norm = nnx.RMSNorm(
      size.inner, epsilon=EPSILON, dtype=dtype, param_dtype=dtype, rngs=rngs
    )
    self.out_proj = linear(size.inner, size.dim)

  def __call__(self, u: jax.Array) -> jax.Array:
    """(N, length, dim) to the same; any length."""
    z, mixed, dt = self._split(self.in_proj(u))
    before = self.size.window - 1
    mixed = self.conv(jnp.pad(mixed, ((0, 0), (before, 0), (0, 0))))
    x, b, c = self._heads(nnx.silu(mixed))
    y = chunked(x, dt, self._decay(dt), b, c, self.size.chunk)
    return self._out(y, x, z)

  def step(self, u: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
    """One token, (N, 1, dim), after those that are in the cache."""
    z, mixed, dt = self._split(self.in_proj(u))
    inputs = jnp.concatenate([cache.inputs, mixed], 1)
    x, b, c = self._heads(nnx.silu(self.conv(inputs)))
    y, state = recurrent(x, dt, self._decay(dt), b, c, cache.state)
    return self._out(y, x, z), Cache(inputs[:, 1:], state)

  def _split(self, u: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gate, input of the convolution, and step of each head."""
    inner, mixed = self.size.inner, self.size.mixed
    z, x, dt = jnp.split(u, [inner, inner + mixed], -1)
    dt = nnx.softplus(dt.astype(jnp.float32) + self.dt_bias[...][None, None])
    return z, x, dt

  def _heads(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The input by heads, B and C by groups of heads; float32."""
    size = self.size
    x, b, c = (
      part.astype(jnp.float32)
      for part in jnp.split(
        x, [size.inner, size.inner + size.groups * size.state], -1
      )
    )
    x = jnp.reshape(x, (*x.shape[:2], size.groups, -1, size.head_dim))
    b, c = (
      jnp.reshape(part, (*part.shape[:2], size.groups, size.state))
      for part in (b, c)
    )
    return x, b, c

  def _decay(self, dt: jax.Array) -> jax.Array:
    return -jnp.exp(self.A_log[...].astype(jnp.float32))[None, None] * dt

  def _out(self, y: jax.Array, x: jax.Array, z: jax.Array) -> jax.Array:
    """The shortcut D x, the gate, the norm, the projection."""
    skip = jnp.reshape(self.D[...], (1, 1, self.size.groups, -1, 1))
    y = jnp.reshape(y + skip * x, z.shape)
    y = self.norm(y * nnx.silu(z.astype(jnp.float32)))
    return self.out_proj(y)


# --- The state space ----------
# x is (N, length, groups, heads of a group, head_dim), dt and the logarithm a
# of the decay are (N, length, heads), B and C (N, length, groups, state).


def recurrent(
  x: jax.Array,
  dt: jax.Array,
  a: jax.Array,
  b: jax.Array,
  c: jax.Array,
  state: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """One token: `S <- exp(a) S + (dt x) B`, `y = S C`; y and the state."""
  shape = x.shape
  x, b, c = x[:, 0], b[:, 0], c[:, 0]
  dt, a = (jnp.reshape(v, (*x.shape[:-1],)) for v in (dt, a))
  old = jnp.reshape(state, (*x.shape, -1))
  old = bits.mark(jnp.exp(a)[..., None, None] * old, "state_decay")
  new = old + jnp.einsum("bghp,bgn->bghpn", dt[..., None] * x, b)
  y = jnp.einsum("bghpn,bgn->bghp", new, c)
  return jnp.reshape(y, shape), jnp.reshape(new, state.shape)


def chunked(
  x: jax.Array,
  dt: jax.Array,
  a: jax.Array,
  b: jax.Array,
  c: jax.Array,
  chunk: int,
) -> jax.Array:
  """All tokens: products inside chunks, a scan over the chunks' states."""
  length = x.shape[1]
  x = x * jnp.reshape(dt, x.shape[:-1])[..., None]
  a = jnp.reshape(a, x.shape[:-1])
  pad = -length % chunk

  def cut(v: jax.Array) -> jax.Array:
    """(N, length, ...) to (N, chunks, chunk, ...), padded with zeros."""
    v = jnp.pad(v, [(0, 0), (0, pad)] + [(0, 0)] * (v.ndim - 2))
    return jnp.reshape(v, (v.shape[0], -1, chunk, *v.shape[2:]))

  x, a, b, c = (cut(v) for v in (x, a, b, c))
  total = jnp.cumsum(a, 2)  # of the decay's logarithm, inside each chunk
  scores = jnp.einsum("bcign,bcjgn->bcgij", c, b)
  within = scores[:, :, :, None] * _decays(a)
  inside = jnp.einsum("bcghij,bcjghp->bcighp", within, x)
  left = jnp.exp(total[:, :, -1:] - total)  # to the end of the chunk
  made = jnp.einsum("bcjghp,bcjgn->bcghpn", left[..., None] * x, b)
  gone = jnp.exp(total[:, :, -1])

  def carry(state: jax.Array, now: Any) -> tuple[jax.Array, jax.Array]:
    gone, made = now
    return gone[..., None, None] * state + made, state

  first = jnp.zeros_like(made[:, 0])
  by_chunk = (jnp.moveaxis(gone, 1, 0), jnp.moveaxis(made, 1, 0))
  states = jnp.moveaxis(lax.scan(carry, first, by_chunk)[1], 0, 1)
  across = jnp.einsum("bcign,bcghpn->bcighp", c, states)
  y = inside + jnp.exp(total)[..., None] * across
  return jnp.reshape(y, (y.shape[0], -1, *y.shape[3:]))[:, :length]


def _decays(a: jax.Array) -> jax.Array:
  """exp(a_{j+1} + ... + a_i) for j <= i, else 0.

  From (N, chunks, chunk, groups, heads) to (N, chunks, groups, heads, i, j).
  The sum runs over a masked matrix: a difference of two long sums is inexact.
  """
  a = jnp.moveaxis(a, 2, -1)
  n = a.shape[-1]
  ones = jnp.ones((1,) * (a.ndim - 1) + (n, n), bool)
  sums = jnp.cumsum(jnp.where(jnp.tril(ones, -1), a[..., None], 0.0), -2)
  return jnp.exp(jnp.where(jnp.tril(ones), sums, -jnp.inf))


# --- The model ----------


class Layer(nnx.Module):
  """`u + mixer(norm(u))`, u in float32."""

  def __init__(self, size: Size, dtype: Any, *, rngs: nnx.Rngs):
    self.dtype = dtype
    self.norm = nnx.RMSNorm(
      size.dim, epsilon=EPSILON, dtype=dtype, param_dtype=dtype, rngs=rngs
    )
    self.mixer = Mixer(size, dtype, rngs=rngs)

  def __call__(self, u: jax.Array) -> jax.Array:
    """(N, length, dim) to the same."""
    return u + self.mixer(self.norm(u)).astype(u.dtype)

  def step(self, u: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
    """One token."""
    y, cache = self.mixer.step(self.norm(u), cache)
    return u + y.astype(u.dtype), cache


class Mamba2(nnx.Module):
  """Embedding, layers, norm, and the embedding again as the head."""

  def __init__(self, size: Size, *, dtype: Any = jnp.bfloat16, rngs: nnx.Rngs):
    self.size = size
    self.embed = nnx.Embed(
      size.vocabulary, size.dim, dtype=dtype, param_dtype=dtype, rngs=rngs
    )
    self.layers = stacks.of(
      functools.partial(Layer, size, dtype), size.depth, rngs=rngs
    )
    self.norm = nnx.RMSNorm(
      size.dim, epsilon=EPSILON, dtype=dtype, param_dtype=dtype, rngs=rngs
    )

  def __call__(self, tokens: jax.Array) -> jax.Array:
    """(N, length) tokens to (N, length, vocabulary) scores."""
    x = self.embed(tokens).astype(jnp.float32)
    x = stacks.run(self.layers, x)
    return self.embed.attend(self.norm(x))

  def step(self, tokens: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
    """(N, 1) next tokens, and the cache of all layers; scores and the cache."""

    def one(x: jax.Array, now: tuple[Layer, Cache]) -> tuple[jax.Array, Cache]:
      layer, kept = now
      return layer.step(x, kept)

    x = self.embed(tokens).astype(jnp.float32)
    x, cache = lax.scan(one, x, (self.layers, cache))
    return self.embed.attend(self.norm(x)), cache


def cache(size: Size, batch: int = 1, dtype: Any = jnp.bfloat16) -> Cache:
  """An empty cache of all layers."""
  inputs = (size.depth, batch, size.window - 1, size.mixed)
  state = (size.depth, batch, size.heads, size.head_dim, size.state)
  return Cache(jnp.zeros(inputs, dtype), jnp.zeros(state, jnp.float32))
