"""What a backward pass keeps: booleans as bits."""

from __future__ import annotations

import contextlib
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from jbin import errors

_BYTE = 8
Keep = Literal["bits", "floats"]
# Part of the keys of JAX's caches of traces.
_keep = jax.make_user_context("bits")


def keeping(keep: Keep) -> contextlib.AbstractContextManager[None]:
  """Context: what low-bit layers that are traced in it keep for gradients.

  "bits", the default: of 1-bit operands the bits, and of a window those that
  tell inside from outside. "floats": what is kept where nobody packs, the
  operands as floats in the dtype of the computation, and what the window looks
  at. Values and gradients are the same.

  Raises:
    errors.UserError: if `keep` is unknown.
  """
  if keep not in get_args(Keep):
    raise errors.UnknownName("residuals", keep, get_args(Keep))
  return _keep(keep)


def kept() -> Keep:
  """What the innermost `keeping` says; functions read it where they trace."""
  return _keep.value


def pack(mask: jax.Array) -> jax.Array:
  """A boolean array as bits along its last axis, for a backward pass to keep.

  Arrays whose last axis is shorter than a byte stay boolean, and empty ones:
  packing them would save nothing.
  """
  if mask.ndim == 0 or mask.shape[-1] < _BYTE or not mask.size:
    return mask
  return jnp.packbits(mask, axis=-1, bitorder="little")


def unpack(packed: jax.Array, size: int) -> jax.Array:
  """The boolean array that `pack` took, whose last axis has `size` entries."""
  if packed.dtype == jnp.bool_:
    return packed
  bits = jnp.unpackbits(packed, axis=-1, count=size, bitorder="little")
  return bits.astype(jnp.bool_)


def unpack_like(packed: jax.Array, like: jax.Array) -> jax.Array:
  """`unpack` to the shape of `like` (a cotangent, say)."""
  return unpack(packed, like.shape[-1] if like.ndim else 1)


def pack_along(mask: jax.Array, axis: int) -> jax.Array:
  """A boolean array as bytes of eight entries along `axis`, zeros at the end.

  Nothing is transposed, so that axes stay where a mesh of devices splits them.
  """
  rest = -mask.shape[axis] % _BYTE
  if rest:
    width = [(0, rest if i == axis else 0) for i in range(mask.ndim)]
    mask = jnp.pad(mask, width)
  shape = (*mask.shape[:axis], -1, _BYTE, *mask.shape[axis + 1 :])
  groups = jnp.reshape(mask, shape).astype(jnp.uint8)
  return (groups << _places(axis, mask.ndim)).sum(axis + 1, dtype=jnp.uint8)


def unpack_along(packed: jax.Array, axis: int, size: int) -> jax.Array:
  """The boolean array of which `pack_along` took `size` entries of `axis`."""
  groups = jnp.expand_dims(packed, axis + 1)
  bits = (groups >> _places(axis, packed.ndim)) & 1
  shape = (*packed.shape[:axis], -1, *packed.shape[axis + 1 :])
  mask = jnp.reshape(bits, shape).astype(jnp.bool_)
  return jax.lax.slice_in_dim(mask, 0, size, axis=axis)


def _places(axis: int, ndim: int) -> jax.Array:
  """0 to 7 along the axis after `axis`, of an array of rank `ndim` + 1."""
  shape = (1,) * (axis + 1) + (_BYTE,) + (1,) * (ndim - axis - 1)
  return jnp.arange(_BYTE, dtype=jnp.uint8).reshape(shape)
