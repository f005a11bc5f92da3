"""Perplexity: each protocol, worked out window by window."""

import math

import numpy as np
import pytest

from jbin import errors, lm
from jbin.lm import _scores
from tests.lm.counting import Counting

VOCAB = 7
TEXT = np.random.default_rng(0).integers(0, VOCAB, 53)
BOS = 4


def _log_p(before):
  """The log probabilities of the token behind these."""
  scores = -((sum(before) - np.arange(VOCAB)) % VOCAB).astype(float)
  return scores - np.log(np.exp(scores).sum())


def _nats(window, first=1, bos=None):
  """Of a window's tokens from `first` on, -log p of each."""
  start = [] if bos is None else [bos]
  return [
    -_log_p([*start, *window[:i]])[window[i]] for i in range(first, len(window))
  ]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_disjoint_windows(batch_size):
  length = 10
  found = lm.perplexity(Counting(), TEXT, length=length, batch_size=batch_size)
  windows = [TEXT[i * length : (i + 1) * length] for i in range(5)]
  means = [np.mean(_nats(window)) for window in windows]
  assert found.perplexity == pytest.approx(math.exp(np.mean(means)), rel=1e-5)
  assert (found.windows, found.predictions) == (5, 45)
  assert found.nats == pytest.approx(sum(means) * 9, rel=1e-5)
  assert found.bits_per_byte is None


def test_sliding_windows():
  """Each token but the first is predicted once, the last window is short."""
  length, stride = 10, 4
  found = lm.perplexity(Counting(), TEXT, length=length, stride=stride)
  nats, done, count = [], 1, 0
  for at in range(0, len(TEXT), stride):
    stop = min(at + length, len(TEXT))
    nats += _nats(TEXT[at:stop], done - at)
    done, count = stop, count + 1
    if stop == len(TEXT):
      break
  assert len(nats) == len(TEXT) - 1
  assert (found.windows, found.predictions) == (count, len(nats))
  assert found.nats == pytest.approx(sum(nats), rel=1e-5)
  # By one, each has as long a context as there is.
  found = lm.perplexity(Counting(), TEXT, length=length, stride=1, batch_size=9)
  whole = [
    *_nats(TEXT[:length]),
    *(_nats(TEXT[i - 9 : i + 1], 9)[0] for i in range(10, len(TEXT))),
  ]
  assert found.nats == pytest.approx(sum(whole), rel=1e-5)


def test_a_first_token():
  found = lm.perplexity(Counting(), TEXT, length=10, bos=BOS)
  nats = [
    x for i in range(5) for x in _nats(TEXT[10 * i : 10 * i + 10], 0, BOS)
  ]
  assert found.predictions == len(nats) == 50
  assert found.nats == pytest.approx(sum(nats), rel=1e-5)
  found = lm.perplexity(Counting(), TEXT, length=10, stride=10, bos=BOS)
  nats += _nats(TEXT[50:], 0, BOS)
  assert (found.windows, found.predictions) == (6, 53)
  assert found.nats == pytest.approx(sum(nats), rel=1e-5)
  # One window of the whole text, and of the shortest.
  found = lm.perplexity(Counting(), TEXT, length=53, bos=BOS)
  assert found.nats == pytest.approx(sum(_nats(TEXT, 0, BOS)), rel=1e-5)
  found = lm.perplexity(Counting(), TEXT[:1], length=1, bos=BOS)
  assert found.nats == pytest.approx(-_log_p([BOS])[TEXT[0]], rel=1e-5)


def test_bits_per_byte():
  found = lm.perplexity(Counting(), TEXT, length=10, text_bytes=106.0)
  bits = found.nats / math.log(2) / (2 * 45)
  assert found.bits_per_byte == pytest.approx(bits, rel=1e-6)


def test_a_second_text_compiles_nothing():
  lm.perplexity(Counting(), TEXT, length=10)
  before = _scores._score._cache_size()
  lm.perplexity(Counting(slope=2.0), TEXT[:31], length=10)
  assert _scores._score._cache_size() == before


def test_a_hopeless_model_has_an_infinite_perplexity():
  found = lm.perplexity(Counting(slope=1e4), TEXT, length=10)
  assert found.perplexity == math.inf
  with pytest.raises(FloatingPointError, match="NaN"):
    lm.perplexity(Counting(slope=math.nan), TEXT, length=10)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"length": 54}, "53 tokens, and 54 at least"),
    ({"length": 1}, "length is 1; it must be 2"),
    ({"length": 10, "stride": 10}, "from 1 to 9, or None"),
    ({"length": 10, "stride": 0}, "from 1 to 9"),
    ({"length": 10, "stride": 11, "bos": 0}, "from 1 to 10"),
    ({"length": 10, "batch_size": 0}, "batch_size is 0"),
    ({"length": 10, "tokens": TEXT[None]}, r"shape \(1, 53\)"),
    ({"length": 10, "tokens": TEXT + 1}, "token 7, .* is 0 to 6"),
    ({"length": 10, "tokens": TEXT - 1}, "the text has the token -1"),
    ({"length": 10, "tokens": TEXT + 2**32}, "the text has the token 42949"),
    ({"length": 10, "tokens": TEXT + 0.5}, "the text has float64 numbers"),
    ({"length": 10, "text_bytes": 0}, "text_bytes is 0"),
  ],
)
def test_errors(options, message):
  with pytest.raises(errors.UserError, match=message):
    lm.perplexity(Counting(), **{"tokens": TEXT, **options})
