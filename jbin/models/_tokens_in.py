"""What language models check of the tokens that they are given."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import core

from jbin import errors


def known(x: jax.Array) -> np.ndarray | None:
  """The numbers of an array, or None while a program is compiled."""
  return None if isinstance(x, core.Tracer) else np.asarray(x)


def counts(tokens: jax.Array, token_mask: jax.Array | None) -> jax.Array:
  """(b,) int32, the tokens of each row without its padding.

  Args:
    tokens: (b, n).
    token_mask: (b, n), 0 or False for padding; None: there is none.

  Raises:
    errors.UserError: if the shapes do not fit, or padding is not on the right,
      as far as that is known before a program runs; see `spoilt`.
  """
  if tokens.ndim != 2:
    raise errors.UserError(
      "a language model takes tokens of the shape (batch, length), got"
      f" {tokens.shape}"
    )
  batch, n = tokens.shape
  if token_mask is None:
    return jnp.full(batch, n, jnp.int32)
  if token_mask.shape != tokens.shape:
    raise errors.UserError(
      f"token_mask has the shape {token_mask.shape}, and the tokens"
      f" {tokens.shape}; they must be equal"
    )
  mask = known(token_mask)
  if mask is not None and (np.diff(mask.astype(np.int8), axis=1) > 0).any():
    raise errors.UserError(
      "token_mask has padding in front of tokens; pad on the right (1, ..., 1,"
      " 0, ..., 0)"
    )
  return jnp.sum(token_mask.astype(bool), -1, dtype=jnp.int32)


def spoilt(x: jax.Array, token_mask: jax.Array | None) -> jax.Array:
  """`x` (b, n, features), NaN in rows with padding in front of tokens.

  For what `counts` cannot know: the numbers of a mask in a compiled program.
  """
  if token_mask is None or token_mask.shape[1] < 2:
    return x
  mask = token_mask.astype(bool)
  wrong = jnp.any(mask[:, 1:] & ~mask[:, :-1], axis=1)
  return jnp.where(wrong[:, None, None], jnp.nan, x)
