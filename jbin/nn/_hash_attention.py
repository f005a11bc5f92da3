"""Attention between hash codes, linear in the number of tokens."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from jbin import bits as bits_lib, errors, references
from jbin.nn import _hash_learning, _kernel_hash, _linear_general

Shift = Literal["own", "consistent"]
_SHIFTS = ("own", "consistent")


def attend(
  codes: jax.Array,
  value: jax.Array,
  constant: jax.Array | float,
  shift: Shift = "own",
  precision: Any = None,
) -> jax.Array:
  """What tokens gather from each other by their codes, in linear time.

  With `c` the constant and `w_ij = <h_i, h_j> + c`, "consistent" is
  `y_i = sum_j w_ij v_j / sum_j w_ij`, and "own" has `c v_i` in the place of
  `c sum_j v_j` above the line. No product is of two tokens: sums over j come
  first. Gradients are the ordinary ones.

  Args:
    codes: (n, tokens, heads, bits), float32.
    value: (n, tokens, heads, head_dim).
    constant: c, above `bits`, so that every weight is positive.
    shift: "own" or "consistent".
    precision: of the products.

  Returns:
    (n, tokens, heads, head_dim), float32.
  """
  value = value.astype(jnp.float32)
  # The marks name what a published energy table charges for.
  total = bits_lib.mark(codes, "code_sum").sum(1)
  below = jnp.einsum(
    "nthb,nhb->nth",
    bits_lib.mark(codes, "code_products"),
    total,
    precision=precision,
  )
  below = bits_lib.mark(below + codes.shape[1] * constant, "denominator")
  context = jnp.einsum("nthb,nthd->nhbd", codes, value, precision=precision)
  above = jnp.einsum("nthb,nhbd->nthd", codes, context, precision=precision)
  if shift == "own":
    above = bits_lib.mark(above + constant * value, "own_value")
  else:
    every = bits_lib.mark(value, "value_sum").sum(1, keepdims=True)
    above = bits_lib.mark(above + constant * every, "all_values")
  return bits_lib.mark(above / below[..., None], "normalize")


@references.cites("ecoformer")
class HashAttention(nnx.Module):
  """Self-attention of hash codes, linear in the tokens (EcoFormer).

  `h = hash(qk(x))` are codes of -1 and +1 (`nn.KernelHash`), one for queries
  and keys alike; `v = value(x)`; with `c = bits + 1`, above all similarities,

  `y_i = (h_i sum_j h_j v_j^T + c v_i) / (<h_i, sum_j h_j> + tokens c)`,

  and `out(y)`. With `shift="consistent"` the weights are those of the
  denominator, `<h_i, h_j> + c`: `c sum_j v_j` stands for `c v_i`. Codes,
  denominator and y are float32; backward they are the ordinary ones, through
  the hash as it says.

  The default is the released code's; the other is the algebra of the kernel,
  where y is a mean of values. Masks, dropout and causal attention are not in
  the method.

  While the hash is not fitted, see `nn.KernelHash`, y is NaN in what is
  compiled, and eager calls raise. The layers are called `qk`, `value` and
  `out` and have the shapes of `nnx.MultiHeadAttention`'s `query`, `value` and
  `out`: its kernels are this layer's start.

  Reference: Liu et al., 2022 (arXiv 2209.09004). Differs from the paper in:
  nothing but the choice of `shift`.
  """

  def __init__(
    self,
    features: int,
    heads: int,
    *,
    bits: int = 16,
    anchors: int = 25,
    shift: Shift = "own",
    learning: _hash_learning.HashLearning | None = None,
    dtype: Any = None,
    precision: Any = None,
    rngs: nnx.Rngs,
    **kwargs: Any,
  ):
    """Makes the layer; its hash is not fitted yet.

    Args:
      features: length of the input's and the output's last axis.
      heads: divides `features`.
      bits: of a code.
      anchors: of the hash.
      shift: "own" or "consistent".
      learning: how the hash is fitted; None for the paper's way.
      dtype: of the projections and the result; None for the input's.
      precision: of all products.
      rngs: for the kernels and the hash.
      **kwargs: of the three `nn.LinearGeneral`, such as `kernel_init`.

    Raises:
      errors.UserError: for another shift, or heads that do not divide the
        features.
    """
    if shift not in _SHIFTS:
      raise errors.UnknownName("shift", shift, _SHIFTS)
    if heads < 1 or features % heads:
      raise errors.UserError(
        f"HashAttention: {heads} heads do not divide {features} features;"
        " choose a divisor"
      )
    self.shift: Shift = shift
    self.precision = precision
    size = features // heads
    kwargs = {"dtype": dtype, "precision": precision, "rngs": rngs, **kwargs}
    make = _linear_general.LinearGeneral
    self.qk = make(features, (heads, size), **kwargs)
    self.value = make(features, (heads, size), **kwargs)
    self.out = make((heads, size), features, axis=(-2, -1), **kwargs)
    self.hash = _kernel_hash.KernelHash(
      heads, size, bits, anchors, learning=learning, rngs=rngs
    )

  def __call__(self, x: jax.Array) -> jax.Array:
    """(batch..., tokens, features) to the same.

    Raises:
      errors.UserError: if the hash is not fitted, where that can be seen.
    """
    codes, value = self.hash(self.qk(x)), self.value(x)
    flat = (-1, *value.shape[-3:])
    y = attend(
      jnp.reshape(codes, (*flat[:-1], codes.shape[-1])),
      jnp.reshape(value, flat),
      self.hash.ready(codes.shape[-1] + 1),
      self.shift,
      self.precision,
    )
    return self.out(jnp.reshape(y, value.shape).astype(value.dtype))
