"""Any forward value, whose gradient passes inside a window of the input."""

from __future__ import annotations

import functools
from typing import Literal

import jax
import jax.numpy as jnp

from jbin import errors, residuals

_EDGES = ("closed", "open")


Keep = Literal["bits", "input"]
"""What the backward pass keeps: the window as bits, or the input itself."""


def _inside(x: jax.Array, clip: jax.Array, edge: str) -> jax.Array:
  size = jnp.abs(x)
  return size < clip if edge == "open" else size <= clip


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _pass_inside(
  x: jax.Array, y: jax.Array, clip: jax.Array | None, edge: str, keep: Keep
) -> jax.Array:
  del x, clip, edge, keep
  return y


def _forward(
  x: jax.Array, y: jax.Array, clip: jax.Array | None, edge: str, keep: Keep
) -> tuple[jax.Array, tuple[jax.Array | None, jax.Array | None]]:
  if clip is None:
    return y, (None, None)
  if keep == "input":
    return y, (x, clip)
  return y, (residuals.pack(_inside(x, clip, edge)), clip)


def _backward(
  edge: str,
  keep: Keep,
  kept: tuple[jax.Array | None, jax.Array | None],
  g: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
  seen, clip = kept
  if seen is None or clip is None:
    return g, jnp.zeros_like(g), None
  if keep == "input":
    inside = _inside(seen, clip, edge)
  else:
    inside = residuals.unpack_like(seen, g)
  passed = jnp.where(inside, g, jnp.zeros_like(g))
  return passed, jnp.zeros_like(g), jnp.zeros_like(clip)


_pass_inside.defvjp(_forward, _backward)


def pass_inside(
  x: jax.Array,
  y: jax.Array,
  clip: float | jax.Array | None,
  edge: str = "closed",
  keep: Keep = "bits",
) -> jax.Array:
  """`y`, whose gradient goes to `x` where `|x| <= clip`.

  Args:
    x: floating, any shape.
    y: the value, of the shape and dtype of `x`.
    clip: the window's half width, a number or an array that broadcasts with
      `x` (same rank); gets no gradient. None: no window.
    edge: "closed", or "open" for `|x| < clip`.
    keep: what the backward pass keeps: "bits", one for each element, or
      "input", `x` itself, which costs nothing where `x` stays in memory anyway
      (a parameter). Nothing without a window. Where floats are to be kept
      (`residuals.keeping`) it is the input.

  Raises:
    errors.UserError: if the edge is unknown.
  """
  if edge not in _EDGES:
    raise errors.UnknownName("edge", edge, _EDGES)
  if clip is not None:
    clip = jnp.asarray(clip, jnp.float32)
  if residuals.kept() == "floats":
    keep = "input"
  return _pass_inside(x, jax.lax.stop_gradient(y), clip, edge, keep)
