"""Multi-head attention with biases, residual terms and a look inside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jbin import errors
from jbin.nn import _attention, _low_rank


class Taps(NamedTuple):
  """What an attention projects its input to, before anything is quantized.

  Each is (batch..., tokens, heads, head_dim), in the layer's dtype.
  """

  query: jax.Array
  key: jax.Array
  value: jax.Array


class MultiHeadAttention(nnx.MultiHeadAttention):
  """`nnx.MultiHeadAttention` with `bias`, low-rank residuals and `taps`.

  Without them it is Flax's layer, bit for bit. A `bias` (relative positions)
  is added to the scores. With `low_rank=r` the terms of
  `nn.LowRankResidual`, made of the layer's input, are added to the scores and
  to the values (BiPFT). Rules make the four factors of its products low-bit:
  its `attention_fn` then is a `nn.DotProductAttention`.
  """

  def __init__(
    self,
    num_heads: int,
    in_features: int,
    *,
    low_rank: int = 0,
    dropout_rate: float = 0.0,
    deterministic: bool | None = False,
    decode: bool | None = False,
    attention_fn: Callable[..., jax.Array] = nnx.dot_product_attention,
    rngs: nnx.Rngs,
    **kwargs: Any,
  ):
    """Makes the layer.

    Args:
      num_heads: of queries.
      in_features: length of the input's last axis.
      low_rank: rank of the residual terms; 0: there are none.
      dropout_rate: of the probabilities.
      deterministic: False drops out until a view says otherwise.
      decode: as in Flax.
      attention_fn: as in Flax.
      rngs: as in Flax.
      **kwargs: as in `nnx.MultiHeadAttention`.
    """
    super().__init__(
      num_heads,
      in_features,
      dropout_rate=dropout_rate,
      deterministic=deterministic,
      decode=decode,
      attention_fn=attention_fn,
      rngs=rngs,
      keep_rngs=dropout_rate > 0,
      **kwargs,
    )
    self.residual: _low_rank.LowRankResidual | None = nnx.data(None)
    if low_rank:
      shared = ("dtype", "param_dtype", "precision")
      self.residual = _low_rank.LowRankResidual(
        in_features,
        low_rank,
        **{key: kwargs[key] for key in shared if key in kwargs},
        rngs=rngs,
      )

  def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
    self,
    inputs_q: jax.Array,
    inputs_k: jax.Array | None = None,
    inputs_v: jax.Array | None = None,
    *,
    bias: jax.Array | None = None,
    mask: jax.Array | None = None,
    taps: bool = False,
    deterministic: bool | None = None,
    rngs: Any = None,
    decode: bool | None = None,
    is_causal: bool = False,
    **kwargs: Any,
  ) -> Any:
    """(batch..., tokens, features) to the same, or (that, `Taps`).

    Args:
      inputs_q: what attends.
      inputs_k: what it attends to; None: itself.
      inputs_v: what is averaged; None: as `inputs_k`.
      bias: added to the scores, broadcasts with (batch..., heads, queries,
        keys).
      mask: False, or 0, where a query may not see a key.
      taps: whether to return the projections as well.
      deterministic: as in Flax, as are `rngs`, `decode`, `is_causal` and what
        else there is.
      rngs: see `deterministic`.
      decode: see `deterministic`.
      is_causal: see `deterministic`.
      **kwargs: see `deterministic`.

    Raises:
      errors.UserError: if a bias, taps or residual terms are asked for
        together with what only Flax's own way has.
    """
    if bias is None and not taps and self.residual is None:
      return super().__call__(
        inputs_q,
        inputs_k,
        inputs_v,
        mask=mask,
        deterministic=deterministic,
        rngs=rngs,
        decode=decode,
        is_causal=is_causal,
        **kwargs,
      )
    decode = self.decode if decode is None else decode
    others = [
      name
      for name, item in {"decode": decode, **kwargs}.items()
      if item is not None and item is not False
    ]
    if others:
      raise errors.UserError(
        "MultiHeadAttention: bias, taps and low-rank residuals do not go"
        f" with {', '.join(others)}; leave one of them out"
      )
    if self.residual is not None and inputs_k is not None:
      raise errors.UserError(
        "MultiHeadAttention: low-rank residuals are of self-attention; give"
        " inputs_q alone"
      )
    key_from = inputs_q if inputs_k is None else inputs_k
    query, key = self.query(inputs_q), self.key(key_from)
    value = self.value(key_from if inputs_v is None else inputs_v)
    seen = Taps(query, key, value)
    if self.query_ln is not None and self.key_ln is not None:
      query, key = self.query_ln(query), self.key_ln(key)
    more: dict[str, Any] = {}
    if self.residual is not None:
      terms = self.residual.scores(inputs_q, query.shape[-1])
      bias = terms if bias is None else bias + terms
      value, more = self._with_term(value, self.residual.values(inputs_q))
    dropout = self._dropout(deterministic, rngs)
    if bias is not None and "dropout_rate" in dropout:
      # Flax's function with dropout adds it as it is.
      bias = jnp.expand_dims(bias, range(query.ndim - bias.ndim))
    y = self.attention_fn(
      query,
      key,
      value,
      bias=bias,
      mask=mask,
      is_causal=is_causal,
      dtype=self.dtype,
      precision=self.precision,
      **more,
      **dropout,
    )
    y = self.out(y)
    return (y, seen) if taps else y

  def _with_term(
    self, value: jax.Array, term: jax.Array
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """A term of all channels: with binary values, a product of its own."""
    if isinstance(self.attention_fn, _attention.DotProductAttention):
      return value, {"value_term": term}
    return value + term[..., None, :], {}

  def _dropout(self, deterministic: bool | None, rngs: Any) -> dict[str, Any]:
    """The arguments that say what is dropped out."""
    if deterministic is None:
      deterministic = self.deterministic
    if not self.dropout_rate or deterministic:
      return {"deterministic": True}
    streams = self.rngs if rngs is None else rngs
    if isinstance(streams, nnx.Rngs):
      streams = streams.dropout
    assert streams is not None
    return {
      "deterministic": False,
      "dropout_rate": self.dropout_rate,
      "dropout_rng": streams(),
      "broadcast_dropout": self.broadcast_dropout,
    }
