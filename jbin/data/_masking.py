"""Masked language modelling's and next-sentence prediction's random choices.

Pure functions of arrays and of random numbers, float64 in [0, 1).
"""

from __future__ import annotations

import array
import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from jbin.data import _tokens

MASKED, RANDOM = 0.8, 0.1
# Whether the second text is the next one; where the first ends; whose text,
# and from where, the second is, if not.
PAIR_DRAWS = 4


def mask(
  tokens: np.ndarray,
  places: np.ndarray,
  draws: np.ndarray,
  share: float,
  mask_id: int,
  ordinary: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
  """Hides a share of the tokens: (what the model sees, what it predicts).

  Of n places round(share * n) are chosen, at least 1. Of the chosen, each by
  itself, 80 % become the mask, 10 % a random token, 10 % stay.

  Args:
    tokens: (b, length) int32.
    places: (b, length) bool, where a token may be chosen.
    draws: (b, 2 * length): which places, then what becomes of them.
    share: of the places.
    mask_id: the id of [MASK].
    ordinary: ids that a random token is one of.

  Returns:
    Both (b, length) int32; the second is -1 where nothing is predicted.
  """
  length = tokens.shape[1]
  count = places.sum(1)
  count = np.where(count, np.maximum(np.rint(share * count), 1), 0)
  # The places of the least draws; 2 is above all of them.
  order = np.argsort(np.where(places, draws[:, :length], 2.0), axis=1)
  rank = np.empty_like(order)
  np.put_along_axis(rank, order, np.arange(length)[None, :], axis=1)
  chosen = rank < count[:, None]
  fate = draws[:, length:]
  # What is left of a draw above 1 - RANDOM says which random token it is.
  which = np.maximum(fate - (1 - RANDOM), 0) / RANDOM * len(ordinary)
  which = np.minimum(which.astype(np.int64), len(ordinary) - 1)
  changed = np.where(fate < MASKED, mask_id, tokens)
  changed = np.where(fate >= 1 - RANDOM, ordinary[which], changed)
  seen = np.where(chosen, changed, tokens).astype(np.int32)
  return seen, np.where(chosen, tokens, -1).astype(np.int32)


@dataclasses.dataclass(frozen=True, eq=False)
class Chunks:
  """Documents in chunks of whole sentences that fill an example each.

  Attributes:
    tokens: (t,) ids of all documents, one behind the other.
    sentences: (s + 1,) where each sentence starts in `tokens`, and the end.
    first: (n,) each chunk's first sentence.
    last: (n,) the one behind its last.
    document: (n, 2) its document's first chunk, and the one behind the last.
    document_end: (n,) the sentence behind the last of its document.
  """

  tokens: np.ndarray
  sentences: np.ndarray
  first: np.ndarray
  last: np.ndarray
  document: np.ndarray
  document_end: np.ndarray

  def __len__(self) -> int:
    return len(self.first)

  def whole(self, indices: np.ndarray) -> list[np.ndarray]:
    """The tokens of each of b chunks."""
    starts, stops = self.sentences[self.first], self.sentences[self.last]
    return [self.tokens[starts[i] : stops[i]] for i in indices]

  def pairs(
    self, indices: np.ndarray, draws: np.ndarray, room: int
  ) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """First texts, second texts, and whether the second is another's.

    A chunk is cut at a sentence chosen uniformly. With probability 1/2 its
    second part gives way to text of another document: from a sentence of a
    chunk, both chosen uniformly, whole sentences as far as there is room.

    Args:
      indices: (b,) chunks of two sentences or more.
      draws: (b, PAIR_DRAWS).
      room: tokens of a pair at most.

    Returns:
      b arrays, b arrays, (b,) int32: 0 if the second follows, else 1.
    """
    first, last = self.first[indices], self.last[indices]
    cut = first + 1 + _floor(draws[:, 1], last - first - 1)
    # Chunks of other documents: those before it, then those behind it.
    low, high = self.document[indices].T
    other = _floor(draws[:, 2], len(self) - (high - low))
    other += np.where(other >= low, high - low, 0)
    begin, end = self.first[other], self.document_end[other]
    begin = begin + _floor(draws[:, 3], self.last[other] - begin)
    left = room - (self.sentences[cut] - self.sentences[first])
    bound = self.sentences[begin] + left
    whole = np.searchsorted(self.sentences, bound, side="right") - 1
    swapped = draws[:, 0] < 0.5
    start = np.where(swapped, begin, cut)
    # One sentence at least, though it may be too long.
    stop = np.where(swapped, np.clip(whole, begin + 1, end), last)
    edges = [self.sentences[at] for at in (first, cut, start, stop)]
    one, two = [], []
    for a, b, c, d in zip(*edges, strict=True):
      one.append(self.tokens[a:b])
      two.append(self.tokens[c:d])
    return one, two, swapped.astype(np.int32)


def _floor(draws: np.ndarray, counts: np.ndarray) -> np.ndarray:
  """Uniform in 0 to count - 1, by uniform draws; 0 where count is 0."""
  return (draws * np.maximum(counts, 1)).astype(np.int64)


def chunks(
  documents: Iterable[Sequence[Sequence[int]]],
  room: int,
  pairs: bool,
  size: int,
) -> Chunks:
  """Fills examples with whole sentences, a document at a time.

  A sentence that is longer than `room`, of pairs longer than half of it, is
  cut. Of pairs, a sentence that is left alone in the end is dropped.

  Args:
    documents: of each, the ids of its sentences.
    room: tokens of an example.
    pairs: whether each needs two sentences.
    size: ids are below it.
  """
  longest = room // 2 if pairs else room
  tokens = array.array(_tokens.typecode(size))
  edges = array.array("q", [0])
  spans: list[tuple[int, int]] = []
  owners: list[tuple[int, int, int]] = []
  for sentences in documents:
    start, before = len(edges) - 1, len(spans)
    for ids in sentences:
      for at in range(0, len(ids), longest):
        tokens.extend(ids[at : at + longest])
        edges.append(len(tokens))
    end = len(edges) - 1
    spans += [
      (low, high)
      for low, high in _fill(edges, start, end, room)
      if high - low > pairs
    ]
    owners += [(before, len(spans), end)] * (len(spans) - before)
  low, high = np.asarray(spans, np.int64).reshape(-1, 2).T
  owner = np.asarray(owners, np.int64).reshape(-1, 3)
  return Chunks(
    tokens=np.asarray(tokens),
    sentences=np.asarray(edges),
    first=low,
    last=high,
    document=owner[:, :2],
    document_end=owner[:, 2],
  )


def _fill(
  edges: Sequence[int], start: int, end: int, room: int
) -> list[tuple[int, int]]:
  """Greedily: spans of sentences from start to end of at most room tokens."""
  spans, low = [], start
  for at in range(start, end):
    if edges[at + 1] - edges[low] > room:
      spans.append((low, at))
      low = at
  return [*spans, (low, end)] if end > low else spans
