"""OPT: learned positions, LayerNorm, a ReLU MLP, biases, a tied head.

A float network: rules make it low-bit (`jbin.quantize`, or the key `rules` of
a config). Its layers are pre-norm, as those of all released sizes but 350M.

Reference: Zhang et al., 2022 (arXiv 2205.01068).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jbin import errors, nn
from jbin.models import _base, _blocks, _causal, _decoder

OFFSET = 2
"""Rows of the table of positions in front of the first one; none is read."""


class ReluMlp(nnx.Module):
  """`fc2(relu(fc1 x))`."""

  def __init__(self, features: int, hidden: int, *, dtype: Any, rngs: nnx.Rngs):
    """Makes both maps; `hidden` features are between them."""
    fc1 = _blocks.linear(features, hidden, dtype, rngs)
    self.fc1 = nn.name_axes(fc1, kernel=("embed", "mlp"))
    fc2 = _blocks.linear(hidden, features, dtype, rngs)
    self.fc2 = nn.name_axes(fc2, kernel=("mlp", "embed"))

  def __call__(self, x: jax.Array) -> jax.Array:
    """(..., features) to (..., features)."""
    return self.fc2(jax.nn.relu(self.fc1(x)))


class Opt(_decoder.Decoder):
  """Tables of words and positions, a stack of layers, a norm."""

  def __init__(
    self,
    vocab_size: int,
    *,
    layers: int,
    features: int,
    heads: int,
    mlp_features: int,
    max_length: int,
    eps: float,
    remat: nn.Remat,
    dtype: Any,
    rngs: nnx.Rngs,
  ):
    """Makes the network; for the arguments and errors see `opt`."""
    self.depth, self.max_length = layers, max_length
    nn.check_remat(remat)
    self.remat, self.dtype = remat, dtype
    head_dim = _decoder.shared(features, heads)
    norm = functools.partial(_blocks.layer_norm, features, eps, dtype)

    def layer(rngs: nnx.Rngs) -> _decoder.Layer:
      attn = _causal.Attention(
        features,
        heads,
        heads,
        head_dim,
        qkv_bias=True,
        out_bias=True,
        dtype=dtype,
        rngs=rngs,
      )
      mlp = ReluMlp(features, mlp_features, dtype=dtype, rngs=rngs)
      return _decoder.Layer(attn, mlp, functools.partial(norm, rngs))

    self.words = _decoder.table(vocab_size, features, dtype, rngs)
    positions = max_length + OFFSET
    self.positions = _decoder.table(positions, features, dtype, rngs, None)
    self.layers = nn.stack(layer, layers, rngs)
    self.norm = norm(rngs)
    self.head: nnx.Linear | None = nnx.data(None)

  def check_length(self, length: int) -> None:
    """Refuses more tokens than there are positions.

    Raises:
      errors.UserError: if there are fewer.
    """
    if length > self.max_length:
      raise errors.UserError(
        f"opt: it has positions for {self.max_length} tokens, got {length};"
        f" make it with max_length={length}, or cut the texts"
      )

  def embed(self, tokens: jax.Array, positions: jax.Array) -> jax.Array:
    """(b, n) tokens at (b or 1, n) positions to (b, n, features)."""
    # Padding may stand past the last position.
    row = jnp.minimum(positions, self.max_length - 1) + OFFSET
    return self.words(tokens) + self.positions(row)


@_base.REGISTRY.register
def opt(
  vocab_size: int = 50272,
  *,
  layers: int = 12,
  features: int = 768,
  heads: int = 12,
  mlp_features: int = 3072,
  max_length: int = 2048,
  eps: float = 1e-5,
  remat: nn.Remat = "none",
  dtype: Any = jnp.float32,
  rngs: nnx.Rngs,
) -> Opt:
  """OPT of any size: pre-norm layers, learned positions, a tied head.

  It is called with tokens, and gives logits of the next one at each; with
  `taps=True` it gives `models.Outputs`, whose hidden states are those in front
  of the last norm. `init_cache` makes what a call goes on from.

  Args:
    vocab_size: words.
    layers: their number.
    features: of a token.
    heads: of each attention.
    mlp_features: features inside the MLPs.
    max_length: positions; the table has two rows more, as checkpoints do.
    eps: of the norms.
    remat: what training computes again: "none"; "full", all but the layers'
      inputs; "dots", all but those and the linear maps.
    dtype: of the computation, the residual stream and the cache; norms and
      softmax are in float32.
    rngs: for the parameters.

  Raises:
    errors.UserError: if heads do not share the features evenly.

  Differs from the paper in that nothing is dropped, and that the word of
  padding is looked up as any other, which trains its row.
  """
  return Opt(
    vocab_size,
    layers=layers,
    features=features,
    heads=heads,
    mlp_features=mlp_features,
    max_length=max_length,
    eps=eps,
    remat=remat,
    dtype=dtype,
    rngs=rngs,
  )


@_base.REGISTRY.register
@_blocks.size_of(opt)
def opt_125m() -> Mapping[str, Any]:
  """OPT-125M: 12 layers, 768 features; options as for `opt`."""
  return {"layers": 12, "features": 768, "heads": 12, "mlp_features": 3072}


@_base.REGISTRY.register
@_blocks.size_of(opt)
def opt_1_3b() -> Mapping[str, Any]:
  """OPT-1.3B: 24 layers, 2048 features; options as for `opt`."""
  return {"layers": 24, "features": 2048, "heads": 32, "mlp_features": 8192}
