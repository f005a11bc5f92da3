import numpy as np
import pytest
from hypothesis import given, strategies

from jbin import errors
from jbin.data import _packing

SPECIAL = {"pad": 0, "unk": 1, "cls": 2, "sep": 3}
TEXTS = strategies.lists(strategies.integers(5, 99), max_size=12)


def shorten(first, second, room):
  """BERT's own way: one by one, of the longer text, else of the second."""
  first, second = list(first), list(second)
  while len(first) + len(second) > room:
    (first if len(first) > len(second) else second).pop()
  return first, second


@given(
  strategies.lists(strategies.tuples(TEXTS, TEXTS), min_size=1, max_size=4),
  strategies.integers(5, 20),
)
def test_pairs_lose_the_tokens_that_bert_drops(pairs, length):
  packed = _packing.pack(*zip(*pairs, strict=True), length, SPECIAL)
  batch = packed.features()
  for i, pair in enumerate(pairs):
    first, second = shorten(*pair, length - 3)
    row = [2, *first, 3, *second, 3]
    padding = [0] * (length - len(row))
    assert batch["tokens"][i].tolist() == row + padding
    segments = [0] * (len(first) + 2) + [1] * (len(second) + 1)
    assert batch["segments"][i].tolist() == segments + padding
    assert batch["token_mask"][i].tolist() == [1] * len(row) + padding
    expected = [False, *[True] * len(first), False, *[True] * len(second)]
    expected += [False] * (length - len(expected))
    assert packed.texts()[i].tolist() == expected


@given(strategies.lists(TEXTS, min_size=1, max_size=4))
def test_single_texts_keep_their_first_tokens(texts):
  packed = _packing.pack([np.asarray(t, int) for t in texts], None, 8, SPECIAL)
  batch = packed.features()
  assert not batch["segments"].any()
  for i, text in enumerate(texts):
    row = [2, *text[:6], 3]
    assert batch["tokens"][i].tolist() == row + [0] * (8 - len(row))
    assert batch["token_mask"][i].sum() == len(row)
    assert packed.texts()[i].sum() == len(row) - 2
  assert {array.dtype for array in batch.values()} == {np.dtype(np.int32)}


def test_lengths_that_leave_nothing():
  _packing.check(3, 1)
  _packing.check(5, 2)
  with pytest.raises(errors.UserError, match=r"length is 2; .* 3 or more"):
    _packing.check(2, 1)
  with pytest.raises(errors.UserError, match=r"5 or more.* pair"):
    _packing.check(4, 2)
