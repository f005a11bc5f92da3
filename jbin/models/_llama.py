"""Llama: RMSNorm, rotations, grouped queries, a gated MLP, no biases.

A float network: rules make it low-bit (`jbin.quantize`, or the key `rules` of
a config), as FBI-LLM does with all linear maps but the head. Options make it
Qwen2, Qwen3 or BitNet b1.58's net.

References: Touvron et al., 2023 (arXiv 2302.13971); Yang et al., 2024 (arXiv
2407.10671) and 2025 (arXiv 2505.09388) for Qwen; Ma et al., 2024 (arXiv
2407.07093) for the sizes of FBI-LLM; Ma et al., 2025 (arXiv 2504.12285) for
BitNet b1.58's norms and activation.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jbin import errors, nn
from jbin.models import _base, _blocks, _causal, _decoder

Activation = Literal["silu", "relu2"]
ACTIVATIONS = {
  "silu": jax.nn.silu,
  "relu2": lambda x: jnp.square(jax.nn.relu(x)),
}


class GatedMlp(nnx.Module):
  """`down(activation(gate x) * up x)`, with a norm in front of `down`."""

  def __init__(
    self,
    features: int,
    hidden: int,
    *,
    activation: Activation,
    norm: nnx.Module | None,
    dtype: Any,
    rngs: nnx.Rngs,
  ):
    """Makes the three maps.

    Args:
      features: length of the last axis, before and after.
      hidden: its length between them.
      activation: "silu" or "relu2".
      norm: of the hidden features; None: there is none.
      dtype: of the computation.
      rngs: for the kernels.

    Raises:
      errors.UserError: if the activation is unknown.
    """
    if activation not in ACTIVATIONS:
      raise errors.UnknownName("activation", activation, ACTIVATIONS)
    self.activation: Activation = activation
    linear = functools.partial(
      _blocks.linear, dtype=dtype, rngs=rngs, use_bias=False
    )
    wide = {"kernel": ("embed", "mlp")}
    self.gate = nn.name_axes(linear(features, hidden), **wide)
    self.up = nn.name_axes(linear(features, hidden), **wide)
    self.norm = nnx.data(norm)
    down = linear(hidden, features)
    self.down = nn.name_axes(down, kernel=("mlp", "embed"))

  def __call__(self, x: jax.Array) -> jax.Array:
    """(..., features) to (..., features)."""
    y = ACTIVATIONS[self.activation](self.gate(x)) * self.up(x)
    if self.norm is not None:
      y = _blocks.norm(self.norm, y)
    return self.down(y)


class Llama(_decoder.Decoder):
  """A table of words, a stack of layers, a norm, a head."""

  def __init__(
    self,
    vocab_size: int,
    *,
    layers: int,
    features: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    mlp_features: int,
    max_length: int,
    rope_base: float,
    eps: float,
    tied: bool,
    qkv_bias: bool,
    qk_norm: bool,
    sub_norms: bool,
    activation: Activation,
    remat: nn.Remat,
    dtype: Any,
    rngs: nnx.Rngs,
  ):
    """Makes the network; for the arguments and errors see `llama`."""
    self.depth, self.head_dim = layers, head_dim
    self.trained_length = max_length  # no limit, as Opt's `max_length` is
    nn.check_remat(remat)
    self.rope_base, self.remat, self.dtype = rope_base, remat, dtype

    def layer(rngs: nnx.Rngs) -> _decoder.Layer:
      norm = functools.partial(nnx.RMSNorm, epsilon=eps, dtype=dtype, rngs=rngs)
      attn = _causal.Attention(
        features,
        heads,
        kv_heads,
        head_dim,
        qkv_bias=qkv_bias,
        out_bias=False,
        norm=norm,
        qk_norm=qk_norm,
        sub_norm=sub_norms,
        dtype=dtype,
        rngs=rngs,
      )
      mlp = GatedMlp(
        features,
        mlp_features,
        activation=activation,
        norm=norm(mlp_features) if sub_norms else None,
        dtype=dtype,
        rngs=rngs,
      )
      return _decoder.Layer(attn, mlp, functools.partial(norm, features))

    self.words = _decoder.table(vocab_size, features, dtype, rngs)
    self.layers = nn.stack(layer, layers, rngs)
    self.norm = nnx.RMSNorm(features, epsilon=eps, dtype=dtype, rngs=rngs)
    self.head: nnx.Linear | None = nnx.data(None)
    if not tied:
      head = _blocks.linear(features, vocab_size, dtype, rngs, use_bias=False)
      self.head = nn.name_axes(head, kernel=("embed", "vocab"))

  def rotation(self, positions: jax.Array) -> _causal.Rotation:
    """Cosines and sines, (b or 1, n, 1, head_dim / 2) in float32."""
    half = self.head_dim // 2
    speed = self.rope_base ** (-np.arange(half) / half)
    speed = speed[None, None, None].astype(np.float32)
    angle = positions[..., None, None] * speed
    return jnp.cos(angle), jnp.sin(angle)


@_base.REGISTRY.register
def llama(
  vocab_size: int = 32000,
  *,
  layers: int = 12,
  features: int = 768,
  heads: int = 12,
  kv_heads: int | None = None,
  head_dim: int | None = None,
  mlp_features: int = 2048,
  max_length: int = 2048,
  rope_base: float = 10000.0,
  eps: float = 1e-5,
  tied: bool = False,
  qkv_bias: bool = False,
  qk_norm: bool = False,
  sub_norms: bool = False,
  activation: Activation = "silu",
  remat: nn.Remat = "none",
  dtype: Any = jnp.float32,
  rngs: nnx.Rngs,
) -> Llama:
  """Llama of any size; by options Qwen2, Qwen3 or BitNet b1.58's net.

  It is called with tokens, and gives logits of the next one at each; with
  `taps=True` it gives `models.Outputs`, whose hidden states are those in front
  of the last norm. `init_cache` makes what a call goes on from.

  Args:
    vocab_size: words.
    layers: their number.
    features: of a token.
    heads: of each attention's queries.
    kv_heads: of its keys and values; None: as many. Neighbours among the
      heads of queries share one.
    head_dim: channels of a head, even; None: the heads share the features.
    mlp_features: features inside the MLPs.
    max_length: tokens that it is meant for; rotations know no end, so that
      no call is refused.
    rope_base: of the rotations' wave lengths.
    eps: of the norms.
    tied: whether the table of words scores them, in place of a head.
    qkv_bias: biases of queries, keys and values, as in Qwen2.
    qk_norm: norms of each head's queries and keys, as in Qwen3.
    sub_norms: norms in front of each attention's and each MLP's last map, as
      in BitNet b1.58.
    activation: "silu", or "relu2" (BitNet b1.58), the square of a ReLU.
    remat: what training computes again: "none"; "full", all but the layers'
      inputs; "dots", all but those and the linear maps.
    dtype: of the computation, the residual stream and the cache; norms,
      rotations and softmax are in float32.
    rngs: for the parameters.

  Raises:
    errors.UserError: if heads cannot share features or keys evenly, their
      channels are odd, rope_base is not above 0, or the activation is
      unknown.
  """
  if not rope_base > 0:
    raise errors.UserError(
      f"llama: rope_base is {rope_base}; it is above 0, 10000 as a rule"
    )
  if head_dim is None:
    head_dim = _decoder.shared(features, heads)
  if head_dim % 2:
    raise errors.UserError(
      f"llama: its rotations turn pairs of channels, and a head has {head_dim}"
      " (head_dim, or features / heads); take an even number"
    )
  return Llama(
    vocab_size,
    layers=layers,
    features=features,
    heads=heads,
    kv_heads=heads if kv_heads is None else kv_heads,
    head_dim=head_dim,
    mlp_features=mlp_features,
    max_length=max_length,
    rope_base=rope_base,
    eps=eps,
    tied=tied,
    qkv_bias=qkv_bias,
    qk_norm=qk_norm,
    sub_norms=sub_norms,
    activation=activation,
    remat=remat,
    dtype=dtype,
    rngs=rngs,
  )


@_base.REGISTRY.register
@_blocks.size_of(llama)
def llama_130m() -> Mapping[str, Any]:
  """FBI-LLM's 130M: 12 layers, 768 features; options as for `llama`."""
  return {"layers": 12, "features": 768, "heads": 12, "mlp_features": 2048}


@_base.REGISTRY.register
@_blocks.size_of(llama)
def llama_1_3b() -> Mapping[str, Any]:
  """FBI-LLM's 1.3B: 24 layers, 2048 features; options as for `llama`."""
  return {"layers": 24, "features": 2048, "heads": 32, "mlp_features": 5632}


@_base.REGISTRY.register
@_blocks.size_of(llama)
def llama_7b() -> Mapping[str, Any]:
  """Llama's and FBI-LLM's 7B: 32 layers, 4096 features; else as `llama`."""
  return {"layers": 32, "features": 4096, "heads": 32, "mlp_features": 11008}
