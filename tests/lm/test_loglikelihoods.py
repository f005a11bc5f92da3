"""How probable continuations are, worked out token by token."""

import math

import numpy as np
import pytest

from jbin import errors, lm
from jbin.lm import _scores
from tests.lm.counting import Counting

VOCAB = 7


def _expected(context, continuation):
  text, total, greedy = list(context), 0.0, True
  for token in continuation:
    scores = -((sum(text) - np.arange(VOCAB)) % VOCAB).astype(float)
    total += scores[token] - math.log(np.exp(scores).sum())
    greedy &= scores.argmax() == token
    text.append(token)
  return total, bool(greedy)


def _pairs(count):
  rng = np.random.default_rng(0)
  draw = lambda low, high: rng.integers(0, VOCAB, rng.integers(low, high))
  pairs = [(draw(1, 30).tolist(), draw(1, 5).tolist()) for _ in range(count)]
  return [*pairs, ([1, 1], [2, 4]), ([3], [3, 6, 5, 3, 6, 5, 3]), ([2], [])]


def _check(found, wanted):
  for (total, greedy), (right, hit) in zip(found, wanted, strict=True):
    assert total == pytest.approx(right, rel=1e-5, abs=1e-6)
    assert greedy is hit


@pytest.mark.parametrize("batch_size", [1, 4])
def test_texts_of_many_lengths(batch_size):
  pairs = _pairs(11)
  before = _scores._score._cache_size()
  found = lm.loglikelihoods(
    Counting(), *zip(*pairs, strict=True), batch_size=batch_size
  )
  _check(found, [_expected(*pair) for pair in pairs])
  assert found[-3][1]
  assert found[-1] == (0.0, True)
  # Lengths are powers of two, with padding and without.
  assert _scores._score._cache_size() - before <= 3


def test_contexts_lose_their_first_tokens():
  pairs = _pairs(11)
  cut = [
    (one[max(0, len(one) + len(two) - 1 - 9) :], two) for one, two in pairs
  ]
  wanted = [_expected(*pair) for pair in cut]
  columns = [*zip(*pairs, strict=True)]
  _check(lm.loglikelihoods(Counting(), *columns, length=9), wanted)
  short = Counting(max_length=9)
  _check(lm.loglikelihoods(short, *columns), wanted)


def test_nothing_is_asked():
  assert lm.loglikelihoods(Counting(), [], []) == []
  assert lm.loglikelihoods(Counting(), [[1]], [[]]) == [(0.0, True)]


@pytest.mark.parametrize(
  ("contexts", "continuations", "options", "message"),
  [
    ([[1]], [], {}, "1 contexts and 0"),
    ([[1], []], [[1], [1]], {}, "context 1 is empty"),
    ([[1]], [[1] * 5], {"length": 4}, "0 has 5 tokens, and the model reads 4"),
    ([[1]], [[7]], {}, "a token 7"),
    ([[1, 2]], [[-1]], {}, "continuation 0 has the token -1"),
    ([[2**32 + 1]], [[1]], {}, "context 0 has the token 4294967297"),
    ([[1.5]], [[1]], {}, "context 0 has float64 numbers"),
    ([[1]], [[1]], {"batch_size": 0}, "batch_size is 0"),
  ],
)
def test_errors(contexts, continuations, options, message):
  with pytest.raises(errors.UserError, match=message):
    lm.loglikelihoods(Counting(), contexts, continuations, **options)
