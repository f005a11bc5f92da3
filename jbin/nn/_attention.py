"""Dot-product attention that takes quantizers."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn import dtypes

from jbin import bits, errors, products
from jbin.nn import _quantizer
from jbin.quantizers import Quantized, Quantizer

# Masked scores, float32, to probabilities of the same shape.
Normalize = Callable[[jax.Array], jax.Array]


def raw_scores(scores: jax.Array) -> jax.Array:
  """The scores as they are, in place of softmax.

  A `normalize` of `DotProductAttention` that leaves all to its
  `weights_quantizer`, as BiBERT's does (`quantizers.ste_heaviside`).
  """
  return scores


def _refuse_channels(spec: Quantizer | None) -> None:
  """Refuses what has variables for each key: their number is not known."""
  if not isinstance(spec, Quantizer):
    return

  def variables(channels: int) -> Any:
    key = jax.random.key(0)
    return spec.parameters(channels, None, key), spec.statistics(channels)

  two, three = (
    jax.eval_shape(functools.partial(variables, channels))
    for channels in (2, 3)
  )
  if two != three:
    raise errors.UserError(
      f"DotProductAttention: weights_quantizer {spec!r} learns or measures"
      " something for each key, and their number is not known; take one with"
      " a value for the tensor (per_channel=False, axes=())"
    )


def _quantized(
  *pairs: tuple[_quantizer.Quantizer | None, jax.Array],
) -> tuple[products.Operand, ...]:
  return tuple(x if make is None else make(x) for make, x in pairs)


def _split(parts: products.Operand, axis: int, groups: int) -> products.Operand:
  """One axis as (groups, members), of codes and scales alike."""

  def part(array: jax.Array) -> jax.Array:
    size = array.shape[axis]
    pair = (1, 1) if size == 1 else (groups, size // groups)
    shape = (*array.shape[:axis], *pair, *array.shape[axis + 1 :])
    return jnp.reshape(array, shape)

  return jax.tree.map(part, parts)


def _only(weights: Quantized, allowed: jax.Array) -> Quantized:
  """Weights that are 0 where a mask forbids: few quantizers map 0 to 0.

  Codes stay where 0 is one of them; -1 and +1 have none, so that such a
  product is one of the values.
  """
  keep = weights.codes is not None and weights.offset is None
  keep &= weights.bits > 1 or 0 in weights.levels
  codes = None
  if keep and weights.codes is not None:
    codes = bits.tag(jnp.where(allowed, weights.codes, 0), weights.bits)
  value = jnp.where(allowed, weights.value, 0)
  return dataclasses.replace(
    weights,
    value=bits.tag(value, weights.bits),
    codes=codes,
    scale=None if codes is None else weights.scale,
    offset=None,
  )


class DotProductAttention(nnx.Module):
  """`nnx.dot_product_attention` that can quantize all four factors.

  An `attention_fn` for `nnx.MultiHeadAttention`, one for each layer; without
  quantizers (and with softmax) it is Flax's function, bit for bit. With them

  `scores = Q_q(query) Q_k(key)^T / sqrt(head_dim) + bias`, masked;
  `probabilities = normalize(scores)`; `y = Q_w(probabilities) Q_v(value)`,

  both products on the codes, what is between them in float32. Gradients are
  those of the quantizers and of `normalize`. Dropout acts on the
  probabilities, before `Q_w` sees them, as in BiT's and BiPFT's code. What a
  mask forbids has weight 0, whatever `Q_w` makes of 0: codes of -1 and +1
  cannot say that, and such a masked product works on the values.

  Quantizers see (batch, length, heads, head_dim) and, for the weights,
  (batch, heads, queries, keys); several batch axes count as one. A scale that
  they measure over several positions sees later ones, mask or not: a causal
  model takes one for each position. Cached keys (`decode=True`) are kept in
  floating point and quantized at each step.
  """

  def __init__(
    self,
    head_dim: int,
    *,
    value_dim: int | None = None,
    query_quantizer: Quantizer | None = None,
    key_quantizer: Quantizer | None = None,
    weights_quantizer: Quantizer | None = None,
    value_quantizer: Quantizer | None = None,
    normalize: Normalize | None = None,
    grad_precision: products.GradPrecision = "float32",
    rngs: nnx.Rngs | None = None,
  ):
    """Makes what the quantizers learn and measure.

    Args:
      head_dim: length of the last axis of queries and keys.
      value_dim: that of values; None for the same.
      query_quantizer: a `jbin.quantizers` member, or None.
      key_quantizer: the same for the keys.
      weights_quantizer: the same for the probabilities, without variables for
        each channel: the number of keys is not known.
      value_quantizer: the same for the values.
      normalize: from masked scores (..., queries, keys), float32, to
        probabilities; a function, or a module. None for softmax;
        `nn.raw_scores` leaves all to `weights_quantizer`.
      grad_precision: of the gradient products of quantized operands.
      rngs: for quantizers that draw.

    Raises:
      errors.UserError: if `weights_quantizer` has variables for each channel.
    """
    _refuse_channels(weights_quantizer)
    value_dim = head_dim if value_dim is None else value_dim
    self.head_dim = head_dim
    self.value_dim = value_dim
    self.normalize = normalize
    self.grad_precision: products.GradPrecision = grad_precision
    hold = _quantizer.hold
    self.query_quantizer = hold(query_quantizer, head_dim, rngs=rngs)
    self.key_quantizer = hold(key_quantizer, head_dim, rngs=rngs)
    self.weights_quantizer = hold(weights_quantizer, 1, rngs=rngs)
    self.value_quantizer = hold(value_quantizer, value_dim, rngs=rngs)

  @property
  def _altered(self) -> bool:
    """Whether it does anything that Flax's function does not."""
    parts = (
      self.query_quantizer,
      self.key_quantizer,
      self.weights_quantizer,
      self.value_quantizer,
      self.normalize,
    )
    return any(part is not None for part in parts)

  def _check(self, query: jax.Array, key: jax.Array, value: jax.Array) -> None:
    """That shapes fit each other and the layer."""
    last = (self.head_dim, self.head_dim, self.value_dim)
    arrays = (query, key, value)
    good = all(
      a.ndim == query.ndim >= 3 and a.shape[-1] == n and a.shape[:-3] == b
      for a, n, b in zip(arrays, last, (query.shape[:-3],) * 3, strict=True)
    )
    good = good and key.shape[-3:-1] == value.shape[-3:-1]
    if not good or query.shape[-2] % key.shape[-2]:
      shapes = ", ".join(str(a.shape) for a in arrays)
      raise errors.UserError(
        "DotProductAttention: expected query (batch..., queries, heads,"
        f" {last[0]}), key (batch..., keys, kv heads, {last[1]}) and value"
        f" (batch..., keys, kv heads, {last[2]}), kv heads a divisor of heads;"
        f" got {shapes}"
      )

  def _scores(
    self, query: jax.Array, key: jax.Array, precision: Any
  ) -> jax.Array:
    """(n, q, h, d) and (n, k, g, d) to (n, h, q, k), float32."""
    heads, groups = query.shape[-2], key.shape[-2]
    left, right = _quantized(
      (self.query_quantizer, query), (self.key_quantizer, key)
    )
    # Heads of a group go with its key: (n, q, g, members, d).
    left = left if heads == groups else _split(left, 2, groups)
    y = products.dot_general(
      left,
      right,
      (((left.ndim - 1,), (3,)), ((0, 2), (0, 2))),
      precision=precision,
      grad_precision=self.grad_precision,
    )
    if heads != groups:
      y = jnp.moveaxis(y, 3, 2)
    y = jnp.reshape(y, (y.shape[0], heads, *y.shape[-2:]))
    return y.astype(jnp.float32) / math.sqrt(self.head_dim)

  def _probabilities(
    self, scores: jax.Array, bias: jax.Array | None, allowed: jax.Array | None
  ) -> jax.Array:
    """Of scores (batch..., heads, queries, keys); float32, the same shape."""
    if bias is not None:
      scores = scores + jnp.broadcast_to(bias, scores.shape)
    if allowed is not None:
      scores = jnp.where(allowed, scores, jnp.finfo(jnp.float32).min)
    return (self.normalize or jax.nn.softmax)(scores)

  def _mixed(
    self,
    weights: jax.Array,
    value: jax.Array,
    allowed: jax.Array | None,
    precision: Any,
    term: jax.Array | None,
  ) -> jax.Array:
    """(n, h, q, k) and (n, k, g, d) to (n, q, h, d)."""
    heads, groups = weights.shape[1], value.shape[-2]
    left, right = _quantized(
      (self.weights_quantizer, weights), (self.value_quantizer, value)
    )
    if isinstance(left, Quantized) and allowed is not None:
      left = _only(left, allowed)
    dot = functools.partial(
      products.dot_general,
      precision=precision,
      grad_precision=self.grad_precision,
    )
    added = None
    if term is not None:  # (n, h, q, 1): one number for all channels
      whole = jnp.broadcast_to(
        term[:, None], (term.shape[0], heads, *term.shape[1:])
      )
      added = dot(left, whole, (((3,), (2,)), ((0, 1), (0, 1))))
    left = left if heads == groups else _split(left, 1, groups)
    y = dot(left, right, (((left.ndim - 1,), (1,)), ((0, 1), (0, 2))))
    y = jnp.reshape(y, (y.shape[0], heads, *y.shape[-2:]))
    if added is not None:
      y += added
    return jnp.moveaxis(y, 1, 2)

  def __call__(
    self,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    bias: jax.Array | None = None,
    mask: jax.Array | None = None,
    broadcast_dropout: bool = True,
    dropout_rng: jax.Array | None = None,
    dropout_rate: float = 0.0,
    deterministic: bool = False,
    dtype: Any = None,
    precision: Any = None,
    module: nnx.Module | None = None,
    promote_dtype: Any = dtypes.promote_dtype,
    is_causal: bool = False,
    value_term: jax.Array | None = None,
  ) -> jax.Array:
    """Arguments and result as for `nnx.dot_product_attention`.

    Args:
      query: (batch..., queries, heads, head_dim).
      key: (batch..., keys, kv heads, head_dim); the number of kv heads divides
        that of heads.
      value: (batch..., keys, kv heads, value_dim).
      bias: added to the scores; broadcasts with (batch..., heads, queries,
        keys), as `mask` does.
      mask: False, or 0, where a query may not see a key.
      broadcast_dropout: whether one draw serves all batches and heads.
      dropout_rng: a key, where `dropout_rate > 0` and not `deterministic`.
      dropout_rate: the share of probabilities that are dropped.
      deterministic: whether none are.
      dtype: of the operands and the result; None for their common one.
      precision: of a float product.
      module: sows the probabilities (before dropout and quantization) as
        "attention_weights".
      promote_dtype: as in Flax.
      is_causal: whether query i sees keys 0 to i only.
      value_term: (batch..., keys, 1), floats beside the quantized values:
        `Q_w(probabilities) value_term` is added to every channel.

    Returns:
      (batch..., queries, heads, value_dim).

    Raises:
      errors.UserError: if the shapes do not fit.
    """
    if not self._altered:
      if value_term is not None:
        value = value + value_term[..., None, :]
      return nnx.dot_product_attention(
        query,
        key,
        value,
        bias,
        mask,
        broadcast_dropout,
        dropout_rng,
        dropout_rate,
        deterministic,
        dtype,
        precision,
        module,
        promote_dtype,
        is_causal,
      )
    query, key, value = promote_dtype((query, key, value), dtype=dtype)
    self._check(query, key, value)
    batch = query.shape[:-3]
    query, key, value = (
      jnp.reshape(a, (-1, *a.shape[-3:])) for a in (query, key, value)
    )
    scores = self._scores(query, key, precision)
    shape = (*batch, *scores.shape[1:])
    allowed = _allowed(mask, is_causal, shape)
    weights = self._probabilities(jnp.reshape(scores, shape), bias, allowed)
    weights = weights.astype(query.dtype)
    if module is not None:
      module.sow(nnx.Intermediate, "attention_weights", weights)
    if not deterministic and dropout_rate > 0.0:
      draws = (1,) * (len(shape) - 2) + shape[-2:]
      weights = _dropped(
        weights,
        dropout_rng,
        dropout_rate,
        draws if broadcast_dropout else shape,
      )
    weights = jnp.reshape(weights, scores.shape)
    if allowed is not None:
      allowed = jnp.reshape(allowed, scores.shape)
    if value_term is not None:
      value_term = jnp.reshape(value_term, (-1, *value_term.shape[-2:]))
    y = self._mixed(weights, value, allowed, precision, value_term)
    return jnp.reshape(y, (*batch, *y.shape[1:]))


def _allowed(
  mask: jax.Array | None, is_causal: bool, shape: tuple[int, ...]
) -> jax.Array | None:
  """Where a query may see a key; None for everywhere."""
  if mask is None and not is_causal:
    return None
  allowed = jnp.tril(jnp.ones(shape[-2:], bool)) if is_causal else True
  allowed = jnp.broadcast_to(allowed, shape)
  if mask is None:
    return allowed
  return allowed & jnp.broadcast_to(mask.astype(bool), shape)


def _dropped(
  weights: jax.Array, key: Any, rate: float, shape: tuple[int, ...]
) -> jax.Array:
  """Some of them 0, the rest larger, by draws of `shape`."""
  keep = jax.random.bernoulli(key, 1 - rate, shape)
  return weights * (
    keep.astype(weights.dtype) / jnp.asarray(1 - rate, weights.dtype)
  )
