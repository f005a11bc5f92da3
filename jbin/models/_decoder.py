"""What transformer decoders share: their layers, their call, their cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jbin import errors, nn
from jbin.models import _base, _blocks, _causal, _tokens_in


class Cache(NamedTuple):
  """Keys and values of the tokens that a decoder has read."""

  k: jax.Array
  # (layers, b, length, kv_heads, head_dim), as are the values.
  v: jax.Array
  used: jax.Array
  # (b,) int32: tokens of each row; what lies behind them is never seen.


def shared(features: int, heads: int) -> int:
  """Channels of each head, if they share the features.

  Raises:
    errors.UserError: if they cannot do so evenly.
  """
  if heads < 1 or features % heads:
    raise errors.UserError(
      f"an attention of {heads} heads cannot have {features} features; their"
      " number must be a multiple of the heads'"
    )
  return features // heads


def table(
  rows: int,
  features: int,
  dtype: Any,
  rngs: nnx.Rngs,
  axis: str | None = "vocab",
) -> nnx.Embed:
  """A table of rows, started as those of transformers are; `axis` is theirs."""
  made = nnx.Embed(
    rows, features, dtype=dtype, embedding_init=_blocks.INIT, rngs=rngs
  )
  return nn.name_axes(made, embedding=(axis, "embed"))


class Layer(nnx.Module):
  """A pre-norm layer.

  `x += attn(norm1(x))`, then `x += mlp(norm2(x))`.
  """

  def __init__(
    self,
    attn: _causal.Attention,
    mlp: nnx.Module,
    norm: Callable[[], nnx.Module],
  ):
    """Makes the layer.

    Args:
      attn: its attention.
      mlp: (..., features) to the same.
      norm: makes each of the two.
    """
    self.norm1 = norm()
    self.attn = attn
    self.norm2 = norm()
    self.mlp = mlp

  def __call__(
    self, x: jax.Array, at: _causal.Places, kept: _causal.Kept | None = None
  ) -> tuple[jax.Array, _causal.Kept | None, nn.Taps]:
    """(b, n, features) to the same; else as its attention."""
    y, kept, found = self.attn(_blocks.norm(self.norm1, x), at, kept)
    x = x + y
    y = self.mlp(_blocks.norm(self.norm2, x))  # pyright: ignore[reportCallIssue]
    return x + y, kept, found


class Decoder(nnx.Module):
  """A table of words, a stack of layers, a norm, scores of every word.

  A model of this kind has `words`, `layers` (an `nn.stack` of `Layer`),
  `norm`, and `head`, which is None where the table of words scores.
  """

  words: nnx.Embed
  layers: Any
  norm: nnx.Module
  head: nnx.Linear | None
  depth: int
  remat: nn.Remat
  dtype: Any
  # On a mesh with the axis `sequence`, see `shards.along_batch`.
  splits_tokens = True

  def embed(self, tokens: jax.Array, positions: jax.Array) -> jax.Array:
    """(b, n) tokens at (b or 1, n) positions to (b, n, features)."""
    del positions
    return self.words(tokens)

  def rotation(self, positions: jax.Array) -> _causal.Rotation | None:
    """By how much positions, (b or 1, n), turn queries and keys."""
    del positions
    return None

  def check_length(self, length: int) -> None:
    """Refuses more tokens than the model has positions for."""
    del length

  def score(self, x: jax.Array) -> jax.Array:
    """(b, n, features) after the last layer to (b, n, vocab_size)."""
    x = _blocks.norm(self.norm, x)
    return self.words.attend(x) if self.head is None else self.head(x)

  def init_cache(self, batch: int, length: int, dtype: Any = None) -> Cache:
    """A cache that has seen nothing.

    Args:
      batch: rows.
      length: tokens of a row that it has place for.
      dtype: of what is kept; None: the model's.

    Raises:
      errors.UserError: if the model has no positions for so many.
    """
    self.check_length(length)
    attn = self.layers.attn
    shape = (self.depth, batch, length, attn.kv_heads, attn.head_dim)
    k, v = (jnp.zeros(shape, dtype or self.dtype) for _ in range(2))
    return Cache(k, v, jnp.zeros(batch, jnp.int32))

  def __call__(
    self,
    tokens: jax.Array,
    *,
    token_mask: jax.Array | None = None,
    cache: Cache | None = None,
    taps: bool = False,
  ) -> Any:
    """(b, n) tokens to (b, n, vocab_size) logits of what comes next.

    Args:
      tokens: numbers of words; n is 0 or more.
      token_mask: (b, n), 1 or True for tokens and 0 for padding, which is on
        the right; None: there is none. Logits of padding mean nothing.
      cache: of what the rows have read so far; None: nothing, and nothing is
        kept.
      taps: whether to return `models.Outputs`.

    Returns:
      Logits (with `taps`, the outputs); given a cache, (that, the new cache).
      Where a row goes on past the end of its cache, and only the compiled
      program knows, its logits are NaN.

    Raises:
      errors.UserError: if the tokens have another shape than the cache, need
        more place than there is, or padding is not on the right.
    """
    counts = _tokens_in.counts(tokens, token_mask)
    if cache is None:
      self.check_length(tokens.shape[1])
    else:
      _check_cache(cache, self.depth, tokens, token_mask)
    positions, at = self.places(tokens, cache, counts)
    first = self.embed(tokens, positions)
    x, kept, tapped = _run(self.layers, first, at, cache, taps, self.remat)
    if cache is not None:
      cache = Cache(kept[0], kept[1], cache.used + counts)
      lost = positions >= cache.k.shape[2]
      lost &= positions < cache.used[:, None]
      x = jnp.where(lost[..., None], jnp.nan, x)
    out = self.score(_tokens_in.spoilt(x, token_mask))
    if taps:
      hidden, found = tapped
      hidden = jnp.concatenate([first[None], hidden])
      out = _base.Outputs(out, hidden, *found)
    return out if cache is None else (out, cache)

  def places(
    self,
    tokens: jax.Array,
    cache: Cache | None = None,
    counts: jax.Array | None = None,
  ) -> tuple[jax.Array, _causal.Places]:
    """Positions, (b or 1, n), and what layers make of them.

    Args:
      tokens: (b, n).
      cache: after which they stand; None: they are the first.
      counts: (b,), how many tokens of a row are no padding; for a cache.
    """
    steps = jnp.arange(tokens.shape[1])[None]
    if cache is None or counts is None:
      seen = steps[:, None] <= steps[..., None]
      places = _causal.Places(seen, self.rotation(steps), None)
      return steps, places
    positions = cache.used[:, None] + steps
    keys = cache.k.shape[2]
    seen = jnp.arange(keys)[None, None] <= positions[..., None]
    slots = jnp.where(steps < counts[:, None], positions, keys)
    rotation = self.rotation(positions)
    return positions, _causal.Places(seen, rotation, slots)


def _run(
  layers: Layer,
  x: jax.Array,
  at: _causal.Places,
  cache: Cache | None,
  taps: bool,
  remat: nn.Remat,
) -> tuple[jax.Array, tuple[Any, ...], Any]:
  """Through all layers: the tokens, keys and values kept, and what is tapped.

  The arrays of the cache go through the layers whole, and each writes its own
  part: XLA then changes them in place.
  """

  def call(
    layer: Layer, carry: Any, at: _causal.Places, number: Any = None
  ) -> Any:
    x, *kept = carry
    held = _causal.Kept(kept[0], kept[1], number) if kept else None
    x, held, found = layer(x, at, held)
    carry = (x,) if held is None else (x, held.k, held.v)
    return carry, (x, found) if taps else None

  start = (x,) if cache is None else (x, cache.k, cache.v)
  numbers = None if cache is None else jnp.arange(cache.k.shape[0])
  (x, *kept), tapped = nn.scan(
    layers, start, at, each=numbers, call=call, remat=remat
  )
  return x, tuple(kept), tapped


def _check_cache(
  cache: Cache,
  depth: int,
  tokens: jax.Array,
  token_mask: jax.Array | None,
) -> None:
  """Refuses a cache of other rows or layers, or without enough place.

  Raises:
    errors.UserError: if it is one, as far as is known before a program runs.
  """
  layers, rows, length = cache.k.shape[:3]
  if (layers, rows) != (depth, len(tokens)):
    raise errors.UserError(
      f"the cache is of {layers} layers and {rows} rows; the model has {depth}"
      f" layers, and {len(tokens)} rows of tokens were given: make it with"
      f" model.init_cache({len(tokens)}, length)"
    )
  more = np.zeros(1, int)
  if token_mask is None:
    more += tokens.shape[1]
  elif (known := _tokens_in.known(token_mask)) is not None:
    more = known.astype(bool).sum(1)
  used = _tokens_in.known(cache.used)
  need = int((more + (0 if used is None else used)).max(initial=0))
  if need > length:
    raise errors.UserError(
      f"the cache has place for {length} tokens of a row, and {need} are"
      f" needed; make it with model.init_cache({rows}, {need}) or more"
    )
