"""The straight-through sign of BinaryNet."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jbin import references
from jbin.estimators import _base, _window


def sign(x: jax.Array, zero: float = 1.0) -> jax.Array:
  """+1 above zero, -1 below, `zero` at 0 and -0; no gradient of its own.

  A NaN counts as below zero: a bit cannot hold it. XLA on CPU compares
  subnormals as zeros.
  """
  one = jnp.ones((), x.dtype)
  if zero == 1.0:
    return jnp.where(x >= 0, one, -one)
  if zero == -1.0:
    return jnp.where(x > 0, one, -one)
  at_zero = jnp.asarray(zero, x.dtype)
  return jnp.where(x > 0, one, jnp.where(x < 0, -one, at_zero))


@_base.REGISTRY.register
@references.cites("ste", "binarynet")
def ste_sign(
  x: jax.Array,
  clip: float | jax.Array | None = 1.0,
  *,
  edge: _base.Edge = "closed",
  zero: float = 1.0,
  keep: _window.Keep = "bits",
) -> jax.Array:
  """Sign whose gradient passes inside a window (straight-through estimator).

  Forward `y = +1 if x >= 0 else -1`; backward `dx = dy * [|x| <= clip]`
  (`< clip` if `edge="open"`; everywhere if `clip` is None).
  At zero: `y = +1`, unless `zero` says otherwise (PyTorch code has 0).

  Args:
    x: floating, any shape; the result has its shape and dtype.
    clip: the window's half width, a number or an array that broadcasts with
      `x` (same rank); gets no gradient. None: no window.
    edge: "closed" or "open".
    zero: the value at 0 and -0.
    keep: what the backward pass keeps, "bits" (one for each element) or
      "input": `x`, for free where it stays in memory anyway, as a parameter.

  Raises:
    errors.UserError: if the edge is unknown.

  Second derivative: 0. Reference: Hubara et al., Binarized Neural Networks,
  2016 (arXiv 1602.02830). Differs from PyTorch code in: sign(0).
  """
  return _window.pass_inside(x, sign(x, zero), clip, edge, keep)
