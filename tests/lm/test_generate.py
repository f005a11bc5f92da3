"""Generation: what is drawn, when it ends, what is refused."""

import numpy as np
import pytest
from flax import nnx

from jbin import errors, lm
from tests.lm.counting import Counting


def _counted(prompt, n, vocab=7):
  text = list(prompt)
  for _ in range(n):
    text.append(sum(text) % vocab)
  return text[len(prompt) :]


PROMPTS = [[1], [2, 3], [6, 6, 6, 1], [1] * 40]


def test_greedy_texts_of_different_lengths():
  found = lm.generate(Counting(), PROMPTS, new_tokens=9)
  assert found == [_counted(prompt, 9) for prompt in PROMPTS]


def test_a_text_ends_at_a_stop():
  whole = _counted([1], 9)
  stop = whole[3]
  end = whole.index(stop) + 1
  found = lm.generate(Counting(), [[1], [0]], new_tokens=9, stop=[stop])
  assert found == [whole[:end], [0] * 9]
  steps = list(lm.stream(Counting(), [[1]], new_tokens=9, stop=[stop]))
  assert len(steps) == end


def test_an_empty_prompt_begins_with_bos():
  found = lm.generate(Counting(), [[], [2]], new_tokens=4, bos=3)
  assert found == [_counted([3], 4), _counted([2], 4)]


def test_draws_are_of_their_own_text():
  def drawn(prompts, seed=0, **kwargs):
    sampling = lm.Sampling(temperature=2.0, seed=seed, **kwargs)
    return lm.generate(Counting(), prompts, new_tokens=30, sampling=sampling)

  alone, pair = drawn([[1]]), drawn([[1], [5]])
  assert pair[0] == alone[0]
  assert pair[0] != pair[1]
  assert drawn([[1]], seed=1) != alone
  assert drawn([[1]], top_k=1)[0] == _counted([1], 30)
  assert drawn([[1]], top_p=0.1)[0] == _counted([1], 30)


@pytest.mark.parametrize(
  ("how", "kept"),
  [({}, 7), ({"top_k": 3}, 3), ({"top_p": 0.9}, 3), ({"top_k": 9}, 7)],
)
def test_what_may_be_drawn(how, kept):
  """Probabilities of d = 0, 1, 2, ... are 0.63, 0.23, 0.09, 0.03, ..."""
  sampling = lm.Sampling(temperature=1.0, **how)
  prompts = [[1]] * 400
  found = lm.generate(Counting(), prompts, new_tokens=1, sampling=sampling)
  behind = [(1 - text[0]) % 7 for text in found]
  assert {*behind} <= {*range(kept)}
  share = np.exp(-np.arange(kept))
  share /= share.sum()
  seen = np.bincount(behind, minlength=kept) / 400
  np.testing.assert_allclose(seen, share, atol=0.08)


def test_ids_in_arrays_and_one_stop():
  prompts = np.array([[2, 3], [1, 1]])
  found = lm.generate(Counting(), prompts, new_tokens=5, stop=0)
  for text, prompt in zip(found, prompts.tolist(), strict=True):
    whole = _counted(prompt, 5)
    assert text == (whole[: whole.index(0) + 1] if 0 in whole else whole)


def test_a_temperature_that_overflows_is_none():
  sampling = lm.Sampling(temperature=1e-38)
  found = lm.generate(Counting(), [[1]], new_tokens=9, sampling=sampling)
  assert found == [_counted([1], 9)]


def test_only_tokens_that_the_tokenizer_has():
  """The best of seven is 5; of the first four, none is behind it but 3."""
  assert lm.generate(Counting(), [[5]], new_tokens=1) == [[5]]
  found = lm.generate(Counting(), [[5]], new_tokens=1, vocabulary=4)
  assert found == [[3]]


REFUSED = {
  "prompts are lists of ids": {"prompts": "text"},
  "are lists of ids, one for each": {"prompts": [1, 2]},
  "prompt 0 has the token 1099511627776": {"prompts": [[2**40]]},
  "prompt 0 has float64 numbers": {"prompts": [[1.5]]},
  "Linear makes no text": {
    "model": nnx.Linear(2, 2, rngs=nnx.Rngs(0)),
  },
  "prompt 1 is empty": {"prompts": [[1], []]},
  "there is no prompt": {"prompts": []},
  "prompt 0 has the token 7, .* 0 to 6": {"prompts": [[1, 7]]},
  "new_tokens is 0": {"new_tokens": 0},
  "need 12 positions, and the model has 10": {
    "model": Counting(max_length=10),
    "prompts": [[1, 2, 3]],
    "new_tokens": 10,
  },
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_cannot_be_generated(why):
  given = {"model": Counting(), "prompts": [[1]], "new_tokens": 4}
  given |= REFUSED[why]
  with pytest.raises(errors.UserError, match=why):
    lm.generate(given.pop("model"), given.pop("prompts"), **given)


@pytest.mark.parametrize(
  ("how", "rule"),
  [
    ({"temperature": -1.0}, "temperature is -1.0; it is 0 or more"),
    ({"top_k": -1}, "top_k is -1"),
    ({"top_p": 0.0}, "top_p is 0.0; it is above 0"),
    ({"seed": 1.5}, "seed is 1.5; it is a whole number"),
  ],
)
def test_how_nothing_can_be_drawn(how, rule):
  with pytest.raises(errors.UserError, match=rule):
    lm.Sampling(**how)


def test_scores_that_are_no_numbers():
  model = Counting(slope=np.nan)
  with pytest.raises(FloatingPointError, match="token 1 of text 0"):
    lm.generate(model, [[1]], new_tokens=4)
  assert lm.generate(Counting(max_length=12), [[1, 2, 3]], new_tokens=10)
