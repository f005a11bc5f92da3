"""Any forward value, whose gradient passes inside a window of the input."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jbin import errors, residuals

_EDGES = ("closed", "open")


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _pass_inside(
  x: jax.Array, y: jax.Array, clip: jax.Array | None, edge: str
) -> jax.Array:
  del x, clip, edge
  return y


def _forward(
  x: jax.Array, y: jax.Array, clip: jax.Array | None, edge: str
) -> tuple[jax.Array, tuple[jax.Array | None, jax.Array | None]]:
  if clip is None:
    return y, (None, None)
  size = jnp.abs(x)
  inside = size < clip if edge == "open" else size <= clip
  return y, (residuals.pack(inside), clip)


def _backward(
  edge: str,
  kept: tuple[jax.Array | None, jax.Array | None],
  g: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
  del edge
  inside, clip = kept
  if inside is None or clip is None:
    return g, jnp.zeros_like(g), None
  passed = jnp.where(residuals.unpack_like(inside, g), g, jnp.zeros_like(g))
  return passed, jnp.zeros_like(g), jnp.zeros_like(clip)


_pass_inside.defvjp(_forward, _backward)


def pass_inside(
  x: jax.Array,
  y: jax.Array,
  clip: float | jax.Array | None,
  edge: str = "closed",
) -> jax.Array:
  """`y`, whose gradient goes to `x` where `|x| <= clip`.

  Args:
    x: floating, any shape.
    y: the value, of the shape and dtype of `x`.
    clip: the window's half width, a number or an array that broadcasts with
      `x` (same rank); gets no gradient. None: no window.
    edge: "closed", or "open" for `|x| < clip`.

  Raises:
    errors.UserError: if the edge is unknown.

  The residual is one bit for each element, none without a window.
  """
  if edge not in _EDGES:
    raise errors.UnknownName("edge", edge, _EDGES)
  if clip is not None:
    clip = jnp.asarray(clip, jnp.float32)
  return _pass_inside(x, jax.lax.stop_gradient(y), clip, edge)
