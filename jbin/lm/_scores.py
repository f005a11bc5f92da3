"""What a language model gives to tokens that are there."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jbin import errors, tasks, views

_LEAST = 16


class Rows(NamedTuple):
  """Some inputs of a model, of one length.

  Attributes:
    tokens: (b, n) int32.
    targets: (b, n) int32: what stands behind each token; -1: not asked.
    kept: (b,) int32: how many tokens there are; what is behind is padding.
  """

  tokens: np.ndarray
  targets: np.ndarray
  kept: np.ndarray


def ids(tokens: Any, what: str) -> np.ndarray:
  """Ids as int32, of any shape.

  Raises:
    errors.UserError: for what is no id: fractions, and numbers out of range.
  """
  found = np.asarray(tokens)
  if found.size and not np.issubdtype(found.dtype, np.integer):
    raise errors.UserError(
      f"{what} has {found.dtype} numbers; ids are whole numbers, as a tokenizer"
      " gives them"
    )
  if found.size and not 0 <= found.min() <= found.max() < 2**31:
    wrong = found.min() if found.min() < 0 else found.max()
    raise errors.UserError(
      f"{what} has the token {wrong}; ids are from 0 up, as a tokenizer gives"
      " them"
    )
  return found.astype(np.int32)


def bucket(length: int, limit: int | None) -> int:
  """To how many tokens a row is padded, so that few programs are compiled.

  The least power of two, 16 or more, that holds so many; at most the limit.
  """
  size = max(_LEAST, 1 << (length - 1).bit_length())
  return size if limit is None else min(size, limit)


def batched(rows: Iterable[Rows], size: int) -> Iterator[Rows]:
  """Rows side by side; the last batch is filled up with its last row."""
  rows = iter(rows)
  while some := list(itertools.islice(rows, size)):
    some += [some[-1]] * (size - len(some))
    yield Rows(*map(np.concatenate, zip(*some, strict=True)))


def row(
  tokens: Sequence[int] | np.ndarray,
  targets: Sequence[int] | np.ndarray,
  length: int,
) -> Rows:
  """One row, padded on the right; targets are as many as tokens."""
  rest = (0, length - len(tokens))
  made = np.pad(tokens, rest), np.pad(targets, rest, constant_values=-1)
  first, second = (part.astype(np.int32)[None] for part in made)
  return Rows(first, second, np.asarray([len(tokens)], np.int32))


def scored(
  model: nnx.Module, batches: Iterable[Rows]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Of each row of each batch, the sum of log p, and whether all were hit.

  Batches of a shape that was seen, of a model of the same structure, are not
  compiled again. While the device works on a batch the next one is made.

  Args:
    model: a language model; is run as for evaluation.
    batches: of rows.

  Yields:
    (b,) float32 and (b,) bool.

  Raises:
    errors.UserError: if a token is none of the model's.
    FloatingPointError: if a probability is NaN.
  """
  graphdef, state = nnx.split(views.evaluation(model))
  ahead = None
  for rows in batches:
    padded = (rows.kept < rows.tokens.shape[1]).any()
    kept = rows.kept if padded else None
    found = _score(graphdef, state, rows.tokens, rows.targets, kept)
    if ahead is not None:
      yield _checked(*ahead)
    ahead = rows, found
  if ahead is not None:
    yield _checked(*ahead)


def _checked(rows: Rows, found: Any) -> tuple[np.ndarray, np.ndarray]:
  sums, hits, size = (np.asarray(part) for part in found)
  highest = max(rows.tokens.max(), rows.targets.max())
  if highest >= size or rows.tokens.min() < 0:
    wrong = highest if highest >= size else rows.tokens.min()
    raise errors.UserError(
      f"there is a token {wrong}, and the model's vocabulary is 0 to"
      f" {size - 1}; encode texts with the tokenizer that the model learned"
    )
  if np.isnan(sums).any():
    raise FloatingPointError("the model gives a token a probability of NaN")
  return sums, hits


@functools.partial(jax.jit, static_argnums=0)
def _score(
  graphdef: Any,
  state: Any,
  tokens: jax.Array,
  targets: jax.Array,
  kept: jax.Array | None,
) -> tuple[jax.Array, jax.Array, int]:
  """The sums, whether all are hit, and the size of the vocabulary."""
  model: Any = nnx.merge(graphdef, state)
  if kept is None:
    logits = model(tokens)
  else:
    mask = jnp.arange(tokens.shape[1])[None] < kept[:, None]
    logits = model(tokens, token_mask=mask.astype(jnp.int32))
  every = jnp.ones(tokens.shape[:1])
  each, hits, asked = tasks.token_losses(logits, targets, every)
  sums = -jnp.sum(jnp.where(asked > 0, each, 0.0), axis=-1)
  return sums, jnp.all(hits | (asked == 0), axis=-1), logits.shape[-1]
