"""The straight-through sign of BinaryNet."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jbin import errors, references, residuals
from jbin.estimators import _base

_EDGES = ("closed", "open")


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


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _ste_sign(
  x: jax.Array, clip: jax.Array | None, edge: str, zero: float
) -> jax.Array:
  del clip, edge
  return sign(x, zero)


def _forward(
  x: jax.Array, clip: jax.Array | None, edge: str, zero: float
) -> tuple[jax.Array, tuple[jax.Array | None, jax.Array | None]]:
  if clip is None:
    return sign(x, zero), (None, None)
  size = jnp.abs(x)
  inside = size < clip if edge == "open" else size <= clip
  return sign(x, zero), (residuals.pack(inside), clip)


def _backward(
  edge: str,
  zero: float,
  kept: tuple[jax.Array | None, jax.Array | None],
  g: jax.Array,
) -> tuple[jax.Array, jax.Array | None]:
  del edge, zero
  inside, clip = kept
  if inside is None or clip is None:
    return g, None
  passed = jnp.where(residuals.unpack_like(inside, g), g, jnp.zeros_like(g))
  return passed, jnp.zeros_like(clip)


_ste_sign.defvjp(_forward, _backward)


@_base.REGISTRY.register
@references.cites("binarynet")
def ste_sign(
  x: jax.Array,
  clip: float | jax.Array | None = 1.0,
  *,
  edge: _base.Edge = "closed",
  zero: float = 1.0,
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

  Raises:
    errors.UserError: if the edge is unknown.

  The residual is one bit for each element.
  Second derivative: 0. Reference: Hubara et al., Binarized Neural Networks,
  2016 (arXiv 1602.02830).
  """
  if edge not in _EDGES:
    raise errors.UnknownName("edge", edge, _EDGES)
  if clip is not None:
    clip = jnp.asarray(clip, jnp.float32)
  return _ste_sign(x, clip, edge, zero)
