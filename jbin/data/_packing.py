"""From the ids of texts and of pairs to arrays of one length.

[CLS] first [SEP]               [CLS] first [SEP] second [SEP]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jbin import errors
from jbin.data import _base

# The kinds of special tokens that examples have.
NEEDED = ("pad", "cls", "sep")

# Ids of one text: a list, or an array of one axis.
Ids = Sequence[int] | np.ndarray


class Packed(NamedTuple):
  """Texts of one length.

  Attributes:
    tokens: (n, length) int32, the padding's id behind the last token.
    ends: (n, 2) int32: where the first text, with its special tokens, ends;
      where all ends.
  """

  tokens: np.ndarray
  ends: np.ndarray

  def features(self) -> _base.Batch:
    """What `text_features` names, each (n, length) int32."""
    places = np.arange(self.tokens.shape[1])
    first, end = self.ends[:, :1], self.ends[:, 1:]
    return {
      "tokens": self.tokens,
      "segments": ((places >= first) & (places < end)).astype(np.int32),
      "token_mask": (places < end).astype(np.int32),
    }

  def texts(self) -> np.ndarray:
    """(n, length) bool: where a token is of a text, not a special one."""
    places = np.arange(self.tokens.shape[1])
    first, end = self.ends[:, :1], self.ends[:, 1:]
    return (
      (places > 0)
      & (places < end)
      & (places != first - 1)
      & (places != end - 1)
    )

  def rows(self, indices: np.ndarray) -> Packed:
    """The texts of some indices."""
    return Packed(self.tokens[indices], self.ends[indices])


def check(length: int, texts: int) -> None:
  """Raises if nothing of a text, or of a pair, would be left.

  Raises:
    errors.UserError: naming the least length.
  """
  least = 1 + 2 * texts
  if length < least:
    what = "a text" if texts == 1 else "a pair of texts"
    raise errors.UserError(
      f"length is {length}; it must be {least} or more, so that something of"
      f" {what} is left beside the special tokens"
    )


def pack(
  first: Sequence[Ids],
  second: Sequence[Ids] | None,
  length: int,
  special: Mapping[str, int],
) -> Packed:
  """Puts texts, or pairs of them, between special tokens, at one length.

  What is too long loses its last tokens; of a pair, one by one, the longer
  text loses them, and of two that are equally long the second.

  Args:
    first: n texts.
    second: n texts that follow them, or None.
    length: tokens, special ones and padding too.
    special: ids of "pad", "cls" and "sep".
  """
  cls, sep = special["cls"], special["sep"]
  tokens = np.full((len(first), length), special["pad"], np.int32)
  ends = np.empty((len(first), 2), np.int32)
  for i, one in enumerate(first):
    other: Any = None if second is None else second[i]
    room = length - (2 if other is None else 3)
    kept = room
    if other is not None:
      # All that the second leaves, but at least half, rounded up.
      kept = max(room - len(other), room - room // 2)
    end = 1 + min(len(one), kept)
    tokens[i, 0] = cls
    tokens[i, 1:end] = one[: end - 1]
    tokens[i, end] = sep
    ends[i] = end + 1
    if other is not None:
      start, rest = end + 1, min(len(other), room - (end - 1))
      tokens[i, start : start + rest] = other[:rest]
      tokens[i, start + rest] = sep
      ends[i, 1] = start + rest + 1
  return Packed(tokens, ends)
