"""BERT: tables of words, positions and segments, post-norm layers, a pooler.

A float network: rules make it low-bit (`jbin.quantize`, or the key `rules` of
a config), as BiBERT and BiPFT do.

References: Devlin et al., 2019 (arXiv 1810.04805); Xing et al., 2024 (arXiv
2312.08937) for the low-rank residuals and the pooler with a shortcut.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from jbin import errors, nn
from jbin.models import _base, _blocks

Activation = Literal["gelu", "relu"]
ACTIVATIONS = {
  "gelu": functools.partial(jax.nn.gelu, approximate=False),
  "relu": jax.nn.relu,
}


class Layer(nnx.Module):
  """A post-norm transformer layer.

  `x = norm1(x + drop(attn(x)))`, then `x = norm2(x + drop(mlp(x)))`.
  """

  def __init__(
    self,
    features: int,
    heads: int,
    mlp_features: int,
    *,
    dropout: float,
    eps: float,
    low_rank: int,
    dtype: Any,
    rngs: nnx.Rngs,
  ):
    """Makes the layer; for the arguments see `bert`."""
    self.attn = _blocks.attention(
      features,
      heads,
      dropout=dropout,
      low_rank=low_rank,
      dtype=dtype,
      rngs=rngs,
    )
    self.norm1 = _blocks.layer_norm(features, eps, dtype, rngs)
    self.mlp = _blocks.Mlp(features, mlp_features, dtype=dtype, rngs=rngs)
    self.norm2 = _blocks.layer_norm(features, eps, dtype, rngs)
    self.dropout = _blocks.make_dropout(dropout, rngs)

  def __call__(
    self, x: jax.Array, mask: jax.Array | None = None, *, taps: bool = False
  ) -> Any:
    """(b, tokens, features) to the same, or (that, `nn.Taps`).

    Args:
      x: tokens.
      mask: (b, 1, 1, tokens), False where a token may not be seen.
      taps: whether to return the attention's projections as well.
    """
    y = self.attn(x, mask=mask, taps=taps)
    y, found = y if taps else (y, None)
    x = _blocks.norm(self.norm1, _dropped(self.dropout, y) + x)
    y = _dropped(self.dropout, self.mlp(x))
    x = _blocks.norm(self.norm2, y + x)
    return (x, found) if taps else x


class TokenHead(nnx.Module):
  """Scores of every word at every token: a masked language model's head.

  `norm(activation(dense(x))) words^T + bias`. The table of words is that of
  the embedding, in floating point even where its lookup is low-bit, as in
  BiPFT's code.
  """

  def __init__(
    self,
    features: int,
    vocab_size: int,
    *,
    activation: Activation,
    eps: float,
    dtype: Any,
    rngs: nnx.Rngs,
  ):
    """Makes the head; for the arguments see `bert`."""
    if activation not in ACTIVATIONS:
      raise errors.UnknownName("token_activation", activation, ACTIVATIONS)
    self.activation = activation
    self.dense = _blocks.linear(features, features, dtype, rngs)
    self.norm = _blocks.layer_norm(features, eps, dtype, rngs)
    self.bias = nnx.Param(jnp.zeros(vocab_size, jnp.float32))

  def __call__(self, x: jax.Array, words: nnx.Embed) -> jax.Array:
    """(b, tokens, features) to (b, tokens, vocabulary)."""
    x = ACTIVATIONS[self.activation](self.dense(x))
    x = _blocks.norm(self.norm, x)
    # Flax's own, past a quantizer of the table.
    scores = nnx.Embed.attend(words, x)
    bias = self.bias[...].astype(scores.dtype)
    return scores + jnp.expand_dims(bias, range(scores.ndim - 1))


class Bert(nnx.Module):
  """Three tables, a stack of layers, a pooler, a classifier."""

  # On a mesh with the axis `sequence`, see `shards.along_batch`.
  splits_tokens = True

  def __init__(
    self,
    num_classes: int,
    *,
    layers: int,
    features: int,
    heads: int,
    mlp_features: int,
    vocab_size: int,
    max_length: int,
    dropout: float,
    eps: float,
    pretraining: bool,
    low_rank: int,
    pooler_residual: bool,
    token_activation: Activation,
    padding_id: int | None,
    remat: nn.Remat,
    dtype: Any,
    rngs: nnx.Rngs,
  ):
    """Makes the network; for the arguments and errors see `bert`."""
    nn.check_remat(remat)
    table = functools.partial(
      nnx.Embed,
      features=features,
      dtype=dtype,
      embedding_init=_blocks.INIT,
      rngs=rngs,
    )
    self.max_length = max_length
    self.padding_id = padding_id
    self.remat: nn.Remat = remat
    self.words = table(vocab_size)
    self.positions = table(max_length)
    self.types = table(2)
    self.norm = _blocks.layer_norm(features, eps, dtype, rngs)
    self.dropout = _blocks.make_dropout(dropout, rngs)

    def layer(rngs: nnx.Rngs) -> Layer:
      return Layer(
        features,
        heads,
        mlp_features,
        dropout=dropout,
        eps=eps,
        low_rank=low_rank,
        dtype=dtype,
        rngs=rngs,
      )

    self.layers = nn.stack(layer, layers, rngs)
    self.pooler = _blocks.linear(features, features, dtype, rngs)
    self.pooler_norm: nnx.LayerNorm | None = nnx.data(None)
    if pooler_residual:
      self.pooler_norm = _blocks.layer_norm(features, eps, dtype, rngs)
    self.token_head: TokenHead | None = nnx.data(None)
    if pretraining:
      self.token_head = TokenHead(
        features,
        vocab_size,
        activation=token_activation,
        eps=eps,
        dtype=dtype,
        rngs=rngs,
      )
    self.head: nnx.Linear | None = nnx.data(None)
    if num_classes:
      self.head = _blocks.linear(features, num_classes, dtype, rngs)

  def look_up(self, tokens: jax.Array) -> jax.Array:
    """(b, length) words to (b, length, features), of the table alone."""
    x = self.words(tokens)
    if self.padding_id is None:
      return x
    return _spared(x, tokens == self.padding_id)

  def embed(
    self, tokens: jax.Array, segments: jax.Array | None = None
  ) -> jax.Array:
    """(b, length) words and segments to (b, length, features)."""
    length = tokens.shape[1]
    if length > self.max_length:
      raise errors.UserError(
        f"bert: it has positions for {self.max_length} tokens, got {length};"
        f" make it with max_length={length}, or cut the texts"
      )
    if segments is None:
      segments = jnp.zeros_like(tokens)
    x = self.look_up(tokens) + self.types(segments)
    x = x + self.positions(jnp.arange(length)[None])
    return _dropped(self.dropout, _blocks.norm(self.norm, x))

  def pool(self, x: jax.Array) -> jax.Array:
    """(b, length, features) to (b, features), from the first token."""
    first = x[:, 0]
    y = self.pooler(first)
    if self.pooler_norm is not None:
      y = _blocks.norm(self.pooler_norm, y) + first
    return jnp.tanh(y)

  def __call__(
    self,
    tokens: jax.Array,
    segments: jax.Array | None = None,
    token_mask: jax.Array | None = None,
    *,
    taps: bool = False,
  ) -> Any:
    """(b, length) tokens to (b, num_classes) logits.

    Args:
      tokens: numbers of words.
      segments: 0 for tokens of the first text, 1 for those of the second;
        None: all are of the first.
      token_mask: 0, or False, where there is only padding; None: nowhere.
      taps: whether to return `models.Outputs`.

    Returns:
      Logits; of a model with a masked-LM head `models.Predictions`.

    Raises:
      errors.UserError: for more tokens than there are positions.
    """
    mask = None
    if token_mask is not None:
      mask = token_mask[:, None, None, :].astype(bool)
    first = self.embed(tokens, segments)
    call = _tapped if taps else None
    x, seen = nn.scan(self.layers, first, mask, call=call, remat=self.remat)
    logits = self.pool(x)
    if self.token_head is None:
      logits = _dropped(self.dropout, logits)
    if self.head is not None:
      logits = self.head(logits)
    scores = None
    if self.token_head is not None:
      scores = self.token_head(x, self.words)
    if taps:
      hidden, found = seen
      hidden = jnp.concatenate([first[None], hidden])
      return _base.Outputs(logits, hidden, *found, token_logits=scores)
    return logits if scores is None else _base.Predictions(logits, scores)


def _dropped(dropout: nnx.Dropout | None, x: jax.Array) -> jax.Array:
  return x if dropout is None else dropout(x)


def _tapped(
  layer: Layer, x: jax.Array, mask: jax.Array | None
) -> tuple[jax.Array, Any]:
  """A layer that also gives its output, and its attention's projections."""
  x, found = layer(x, mask, taps=True)
  return x, (x, found)


@jax.custom_vjp
def _spared(x: jax.Array, where: jax.Array) -> jax.Array:
  """`x` (..., features) itself, without a gradient `where` (...) says."""
  del where
  return x


def _spared_forward(
  x: jax.Array, where: jax.Array
) -> tuple[jax.Array, jax.Array]:
  return x, where


def _spared_backward(where: jax.Array, g: jax.Array) -> tuple[jax.Array, None]:
  return jnp.where(where[..., None], 0, g), None


_spared.defvjp(_spared_forward, _spared_backward)


@_base.REGISTRY.register
def bert(
  num_classes: int = 2,
  *,
  layers: int = 12,
  features: int = 768,
  heads: int = 12,
  mlp_features: int = 3072,
  vocab_size: int = 30522,
  max_length: int = 512,
  dropout: float = 0.1,
  eps: float = 1e-12,
  pretraining: bool = False,
  low_rank: int = 0,
  pooler_residual: bool = False,
  token_activation: Activation = "gelu",
  padding_id: int | None = 0,
  remat: nn.Remat = "none",
  dtype: Any = jnp.float32,
  rngs: nnx.Rngs,
) -> Bert:
  """BERT of any size: post-norm layers, a pooler on the first token.

  It is called with tokens, segments and a mask of the tokens; with `taps=True`
  it gives `models.Outputs`.

  Args:
    num_classes: length of the logits; 0: no classifier, the pooled first token
      is what the model gives.
    layers: their number.
    features: of a token.
    heads: of each attention.
    mlp_features: features inside the MLPs.
    vocab_size: words.
    max_length: positions.
    dropout: rate, of the embedding, of the probabilities, of what attentions
      and MLPs give, and in front of the classifier.
    eps: of the norms.
    pretraining: adds a masked language model's head, whose table is that of
      the embedding; the classifier then says whether the second text follows
      the first (`num_classes` is 2), and nothing is dropped in front of it.
    low_rank: rank of BiPFT's residual terms in each attention; 0: there are
      none.
    pooler_residual: BiPFT's pooler, `tanh(norm(dense(x)) + x)` in place of
      `tanh(dense(x))`.
    token_activation: "gelu" or "relu", in the masked-LM head (BiPFT: "relu").
    padding_id: the word whose lookup gets no gradient, as in PyTorch's
      embeddings; None: all get theirs.
    remat: "none", "full" or "dots": what the backward pass computes again; see
      `jbin.nn.scan`.
    dtype: of the computation.
    rngs: for the parameters, and for dropout.

  Raises:
    errors.UserError: if heads do not share the features evenly, or the
      activation or `remat` is unknown.
  """
  return Bert(
    num_classes,
    layers=layers,
    features=features,
    heads=heads,
    mlp_features=mlp_features,
    vocab_size=vocab_size,
    max_length=max_length,
    dropout=dropout,
    eps=eps,
    pretraining=pretraining,
    low_rank=low_rank,
    pooler_residual=pooler_residual,
    token_activation=token_activation,
    padding_id=padding_id,
    remat=remat,
    dtype=dtype,
    rngs=rngs,
  )


@_base.REGISTRY.register
@_blocks.size_of(bert)
def bert_base() -> Mapping[str, Any]:
  """BERT-base: 12 layers, 768 features, 12 heads; options as for `bert`."""
  return {"layers": 12, "features": 768, "heads": 12, "mlp_features": 3072}
