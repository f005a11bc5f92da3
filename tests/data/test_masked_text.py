import pathlib

import numpy as np
import pytest
from hypothesis import given, strategies

import jbin.data
from jbin import errors
from jbin.data import _documents, _masking, _random

MASK, CLS, SEP = 4, 2, 3
ORDINARY = np.arange(5, 105, dtype=np.int32)


def masked(tokens, places, share, seed=0):
  n, length = tokens.shape
  draws = _random.uniforms(seed, np.arange(n), 2 * length)
  return _masking.mask(tokens, places, draws, share, MASK, ORDINARY)


@given(
  strategies.integers(1, 30),
  strategies.floats(0.01, 1.0),
  strategies.integers(0, 2**32),
)
def test_a_share_of_the_places_is_hidden(length, share, seed):
  generator = np.random.default_rng(seed)
  tokens = generator.integers(5, 105, (6, length)).astype(np.int32)
  places = generator.random((6, length)) < 0.7
  seen, targets = masked(tokens, places, share, seed)
  chosen = targets >= 0
  counts = places.sum(1)
  expected = np.where(counts, np.maximum(np.rint(share * counts), 1), 0)
  np.testing.assert_array_equal(chosen.sum(1), expected)
  assert not chosen[~places].any()
  np.testing.assert_array_equal(targets[chosen], tokens[chosen])
  np.testing.assert_array_equal(seen[~chosen], tokens[~chosen])
  assert set(seen[chosen].tolist()) <= {MASK, *ORDINARY.tolist()}
  assert seen.dtype == targets.dtype == np.int32


def test_what_becomes_of_hidden_words():
  # Tokens that no random one can be, so that all three fates are told apart.
  tokens = np.full((4000, 40), 200, np.int32)
  seen, targets = masked(tokens, np.ones(tokens.shape, bool), 0.15)
  chosen = targets >= 0
  assert chosen.mean() == 0.15
  # Each place is chosen as often as the others.
  assert np.abs(chosen.mean(0) - 0.15).max() < 0.025
  fates = seen[chosen]
  np.testing.assert_allclose((fates == MASK).mean(), 0.8, atol=0.01)
  np.testing.assert_allclose((fates == 200).mean(), 0.1, atol=0.01)
  random = fates[(fates != MASK) & (fates != 200)]
  counts = np.bincount(random, minlength=105)[5:]
  expected = len(random) / 100
  # 99 degrees of freedom: 148.2 is the 0.1 % point of chi-square.
  assert np.sum((counts - expected) ** 2 / expected) < 148.2


def numbered(*sizes):
  """Documents whose tokens are their own positions."""
  tokens = iter(range(10000))
  return [
    [[next(tokens) for _ in range(size)] for size in document]
    for document in sizes
  ]


def test_chunks_are_whole_sentences_as_far_as_they_fit():
  documents = numbered((3, 4, 2, 6, 1), (5,), (9, 2), (25, 1))
  chunks = _masking.chunks(documents, 10, False, 10000)
  whole = [each.tolist() for each in chunks.whole(np.arange(len(chunks)))]
  assert [len(each) for each in whole] == [9, 7, 5, 9, 2, 10, 10, 6]
  assert [token for each in whole for token in each] == list(range(58))
  assert chunks.tokens.dtype == np.uint16
  assert _masking.chunks(documents, 10, False, 2**17).tokens.dtype == np.int32


def test_chunks_of_pairs_have_two_sentences():
  documents = numbered((3, 4, 2, 6, 1), (5,), (9, 2), (4,))
  chunks = _masking.chunks(documents, 10, True, 10000)
  sentences = (chunks.last - chunks.first).tolist()
  # 6 and 9 are cut in two; the 1 and the last 4 are left alone.
  assert sentences == [3, 3, 2]
  assert chunks.document.tolist() == [[0, 2], [0, 2], [2, 3]]


@given(strategies.integers(0, 2**32), strategies.integers(6, 30))
def test_pairs_follow_or_are_from_elsewhere(seed, room):
  generator = np.random.default_rng(seed)
  sizes = [generator.integers(1, 9, generator.integers(2, 9)) for _ in range(5)]
  documents = numbered(*sizes)
  owner = np.concatenate(
    [np.full(size.sum(), i) for i, size in enumerate(sizes)]
  )
  chunks = _masking.chunks(documents, room, True, 10000)
  indices = np.repeat(np.arange(len(chunks)), 4)
  draws = generator.random((len(indices), _masking.PAIR_DRAWS))
  whole = chunks.whole(indices)
  starts = set(chunks.sentences.tolist())
  for text, one, two, label in zip(
    whole, *chunks.pairs(indices, draws, room), strict=True
  ):
    assert len(one)
    assert len(two)
    assert len(text) <= room
    np.testing.assert_array_equal(one, text[: len(one)])
    assert {int(one[0]), int(two[0])} <= starts
    if label:
      assert owner[two[0]] != owner[one[0]]
      assert len(set(owner[two])) == 1
      np.testing.assert_array_equal(np.diff(two.astype(int)), 1)
      # Whole sentences, but for one that is longer than what is left.
      ends = int(two[-1]) + 1
      assert ends in starts
      assert len(one) + len(two) <= room or not starts & {*two[1:].tolist()}
    else:
      np.testing.assert_array_equal(two, text[len(one) :])


@pytest.fixture
def text(articles_file):
  def build(**options):
    options = {"vocab_size": 100, "length": 40, **options}
    return jbin.data.masked_text(articles_file, **options)

  return build


def test_examples_are_bert_s(text):
  data = text()
  assert data.offers == {
    "vocab_size": 100,
    "max_length": 40,
    "num_classes": 2,
  }
  draws = _random.uniforms(0, np.arange(2000), data.draws)
  batch = data.read_train(np.arange(2000) % data.num_train, draws)
  assert abs(batch["label"].mean() - 0.5) < 0.04
  original = np.where(batch["targets"] >= 0, batch["targets"], batch["tokens"])
  assert (original[:, 0] == CLS).all()
  assert ((original == SEP).sum(1) == 2).all()
  words = batch["token_mask"].sum(1) - 3
  hidden = (batch["targets"] >= 0).sum(1)
  np.testing.assert_array_equal(hidden, np.maximum(np.rint(0.15 * words), 1))
  assert not np.isin(batch["targets"], [CLS, SEP, 0]).any()
  # The second segment begins behind the first separator.
  first = np.argmax(original == SEP, axis=1)
  np.testing.assert_array_equal(np.argmax(batch["segments"], axis=1), first + 1)


def test_training_draws_anew_and_evaluation_does_not(text):
  data = text()
  iterator = iter(data.train(data.num_train, 0))
  epochs = [next(iterator) for _ in range(2)]
  iterator.close()
  hidden = [
    {(batch["tokens"][i].tobytes()) for i in range(data.num_train)}
    for batch in epochs
  ]
  assert len(hidden[0] & hidden[1]) < 0.2 * data.num_train
  first, second = (
    data.read_eval(indices, None)
    for indices in (np.arange(data.num_eval), np.arange(data.num_eval)[::-1])
  )
  for key in first:
    np.testing.assert_array_equal(first[key], second[key][::-1])
  assert 0 < first["label"].mean() < 1


def test_without_next_sentences(text):
  data = text(next_sentence=False, mask_share=0.5)
  assert "label" not in data.features
  assert "num_classes" not in data.offers
  batch = data.read_eval(np.arange(data.num_eval), None)
  assert not batch["segments"].any()
  hidden, words = (batch["targets"] >= 0).sum(), batch["token_mask"].sum()
  assert abs(hidden / (words - 2 * data.num_eval) - 0.5) < 0.02


def test_held_out_documents(text, articles_file):
  documents = text(next_sentence=False, eval_share=0.25)
  other = text(next_sentence=False, eval_share=0.5)
  assert documents.num_train > other.num_train
  both = text(eval_files=[articles_file])
  assert both.num_train == both.num_eval
  # An example for each document, none longer than its room.
  counted = text(
    next_sentence=False, length=2000, tokenizer="bytes", vocab_size=0
  )
  assert (counted.num_train, counted.num_eval) == (54, 6)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"mask_share": 0.0}, "above 0"),
    ({"eval_share": 1.0}, "eval_share is 1.0"),
    ({"length": 4}, "5 or more"),
    ({"dataset": "wiki40b/en"}, "either files or dataset"),
    ({"eval_share": 0.01}, r"evaluation text has [01] documents of use"),
    ({"eval_files": "nowhere.txt"}, "eval_files: nowhere.txt is not there"),
    ({"vocab_size": 10}, "vocab_size is 10"),
  ],
)
def test_wrong_options(text, options, message):
  with pytest.raises(errors.UserError, match=message):
    text(**options)


def test_wrong_sources(glue_dir, tmp_path):
  with pytest.raises(errors.UserError, match="either files or dataset"):
    jbin.data.masked_text()
  with pytest.raises(errors.UserError, match=r"no feature 'text'.*text_key"):
    jbin.data.masked_text(dataset="toy_glue/sst2", data_dir=glue_dir)
  vocab = tmp_path / "vocab.txt"
  vocab.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n")
  with pytest.raises(errors.UserError, match=r"no token \[MASK\]"):
    jbin.data.masked_text(
      dataset="toy_glue/articles", data_dir=glue_dir, tokenizer=str(vocab)
    )


def test_wikitext_is_read_in_full(wikitext):
  data = jbin.data.masked_text(wikitext, length=128)
  assert (data.num_train, data.num_eval) == (2214, 223)
  text = _documents.read(pathlib.Path(wikitext))
  documents = [*_documents.of_text(text)]
  lines = sum(len(document) for document in documents)
  assert (len(documents), lines) == (540, 8661)
  batch = data.read_eval(np.arange(data.num_eval), None)
  assert 0.8 < batch["token_mask"].mean() < 0.9
  assert abs(batch["label"].mean() - 0.5) < 0.1
