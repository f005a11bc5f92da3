"""What a backward pass keeps: booleans as bits."""

from __future__ import annotations

import jax
import jax.numpy as jnp

_BYTE = 8


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
