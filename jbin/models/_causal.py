"""Attention that looks back only, with keys and values that are kept.

Queries may share keys and values in groups, and each row of a batch goes on
after its own tokens.

References: Vaswani et al., 2017 (arXiv 1706.03762); Su et al., 2021 (arXiv
2104.09864) for the rotations; Ainslie et al., 2023 (arXiv 2305.13245) for the
groups; Henry et al., 2020 (arXiv 2010.04245) for norms of queries and keys;
Wang et al., 2022 (arXiv 2210.06423) for those in front of the last projection.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jbin import errors, nn
from jbin.models import _blocks

Rotation = tuple[jax.Array, jax.Array]


class Places(NamedTuple):
  """Where the tokens of a call stand; the same in all layers.

  Attributes:
    seen: (rows, n, keys) bool, which keys a token sees; rows is 1 where all
      are alike.
    rotation: cosines and sines, (rows, n, 1, head_dim / 2); None: there is no
      rotation.
    slots: (b, n) where keys are kept, that of padding past the end; None:
      nothing is kept.
  """

  seen: jax.Array
  rotation: Rotation | None
  slots: jax.Array | None


class Kept(NamedTuple):
  """The arrays of a `Cache`, as one of its layers has them."""

  k: jax.Array
  v: jax.Array
  layer: jax.Array
  # Its number, a scalar.

  def written(self, k: jax.Array, v: jax.Array, slots: jax.Array) -> Kept:
    """With keys and values, (b, n, kv_heads, head_dim), at each row's slots."""
    at = (self.layer, jnp.arange(len(slots))[:, None], slots)
    k, v = (
      old.at[at].set(new.astype(old.dtype), mode="drop")
      for old, new in ((self.k, k), (self.v, v))
    )
    return Kept(k, v, self.layer)

  def read(self, dtype: Any) -> tuple[jax.Array, jax.Array]:
    """Keys and values, (b, length, kv_heads, head_dim), of this layer."""
    return self.k[self.layer].astype(dtype), self.v[self.layer].astype(dtype)


def rotated(x: jax.Array, rotation: Rotation) -> jax.Array:
  """Pairs of channels, half a head apart, turned by their position's angle.

  `(a, b) -> (a cos - b sin, b cos + a sin)`, in float32.

  Args:
    x: (b, n, heads, head_dim).
    rotation: of (b or 1, n, 1, head_dim / 2).
  """
  cos, sin = rotation
  a, b = jnp.split(x.astype(jnp.float32), 2, -1)
  turned = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)
  return turned.astype(x.dtype)


@jax.named_scope("attention")
def attend(
  q: jax.Array, k: jax.Array, v: jax.Array, seen: jax.Array
) -> jax.Array:
  """`softmax(q k^T / sqrt(head_dim)) v` over the keys that a token sees.

  Scores and softmax are in float32, whatever the dtype of the factors.

  Args:
    q: (b, n, heads, head_dim).
    k: (b, keys, kv_heads, head_dim); neighbours among the heads share one.
    v: the same.
    seen: (b or 1, n, keys), one key or more for each token.

  Returns:
    (b, n, heads * head_dim).
  """
  b, n, heads, dim = q.shape
  shared = k.shape[2]
  q = jnp.reshape(q, (b, n, shared, heads // shared, dim))
  scores = jnp.einsum(
    "bnhgd,bkhd->bhngk", q, k, preferred_element_type=jnp.float32
  )
  seen = seen[:, None, :, None]
  scores = jnp.where(seen, scores * dim**-0.5, jnp.finfo(jnp.float32).min)
  weights = jax.nn.softmax(scores, -1).astype(v.dtype)
  y = jnp.einsum("bhngk,bkhd->bnhgd", weights, v)
  return jnp.reshape(y, (b, n, heads * dim))


class Attention(nnx.Module):
  """Attention that looks back only; queries share keys in groups."""

  def __init__(
    self,
    features: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    *,
    qkv_bias: bool,
    out_bias: bool,
    norm: Callable[[int], nnx.Module] | None = None,
    qk_norm: bool = False,
    sub_norm: bool = False,
    dtype: Any,
    rngs: nnx.Rngs,
  ):
    """Makes the four projections, and norms where they are asked for.

    Args:
      features: of a token.
      heads: of queries.
      kv_heads: of keys and values.
      head_dim: channels of each.
      qkv_bias: whether the three first projections have one.
      out_bias: whether the last one has.
      norm: makes one of so many channels.
      qk_norm: whether each head of queries and keys is normed.
      sub_norm: whether the last projection's input is.
      dtype: of the computation.
      rngs: for the kernels.

    Raises:
      errors.UserError: if heads cannot share keys evenly.
    """
    if kv_heads < 1 or heads < 1 or heads % kv_heads:
      raise errors.UserError(
        f"an attention of {heads} heads cannot share {kv_heads} heads of keys"
        " evenly; take a number (kv_heads) that divides the heads'"
      )
    self.heads, self.kv_heads, self.head_dim = heads, kv_heads, head_dim
    inner, shared = heads * head_dim, kv_heads * head_dim

    def projection(size: int) -> nnx.Linear:
      made = _blocks.linear(features, size, dtype, rngs, use_bias=qkv_bias)
      return nn.name_axes(made, kernel=("embed", "heads"))

    self.query = projection(inner)
    self.key = projection(shared)
    self.value = projection(shared)
    out = _blocks.linear(inner, features, dtype, rngs, use_bias=out_bias)
    self.out = nn.name_axes(out, kernel=("heads", "embed"))
    each = norm if qk_norm and norm is not None else None
    self.query_norm = nnx.data(each and each(head_dim))
    self.key_norm = nnx.data(each and each(head_dim))
    self.norm = nnx.data(norm(inner) if sub_norm and norm else None)

  def _project(self, x: jax.Array) -> nn.Taps:
    """Queries, keys and values, (b, n, heads, head_dim) each."""

    def part(layer: nnx.Linear, heads: int) -> jax.Array:
      return jnp.reshape(layer(x), (*x.shape[:-1], heads, self.head_dim))

    return nn.Taps(
      part(self.query, self.heads),
      part(self.key, self.kv_heads),
      part(self.value, self.kv_heads),
    )

  def __call__(
    self, x: jax.Array, at: Places, kept: Kept | None = None
  ) -> tuple[jax.Array, Kept | None, nn.Taps]:
    """(b, n, features) to the same.

    Args:
      x: tokens.
      at: where they stand.
      kept: keys and values of all layers; None: the tokens' own are all.

    Returns:
      The result; what is kept now; the projections, before norms and turns.
    """
    q, k, v = found = self._project(x)
    if self.query_norm is not None and self.key_norm is not None:
      q, k = _blocks.norm(self.query_norm, q), _blocks.norm(self.key_norm, k)
    if at.rotation is not None:
      q, k = rotated(q, at.rotation), rotated(k, at.rotation)
    if kept is not None and at.slots is not None:
      kept = kept.written(k, v, at.slots)
      k, v = kept.read(q.dtype)
    y = attend(q, k, v, at.seen)
    if self.norm is not None:
      y = _blocks.norm(self.norm, y)
    return self.out(y), kept, found
