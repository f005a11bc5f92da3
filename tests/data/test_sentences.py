import functools
import pickle

import numpy as np
import pytest

import jbin.data
from jbin import errors
from jbin.data import _tokens


@pytest.fixture
def glue(glue_dir):
  def build(name, **options):
    options = {"vocab_size": 100, "length": 24, **options}
    return jbin.data.sentences(f"toy_glue/{name}", glue_dir, **options)

  return build


def whole(data):
  return data.read_train(np.arange(data.num_train), None)


def originals(glue_dir, name, split):
  import tensorflow_datasets as tfds

  builder = tfds.builder_from_directory(f"{glue_dir}/toy_glue/{name}/1.0.0")
  return [*builder.as_data_source(split=split)]


def test_a_pair_is_what_the_library_makes_of_it(glue, glue_dir):
  import tokenizers
  from tokenizers import processors

  data = glue("mnli", length=40)
  assert data.offers == {"num_classes": 3, "vocab_size": 100, "max_length": 40}
  assert (data.num_train, data.num_eval) == (30, 13)
  examples = originals(glue_dir, "mnli", "train")
  texts = [
    tuple(each[key].decode() for key in ("premise", "hypothesis"))
    for each in examples
  ]
  ours = _tokens.wordpiece([text for pair in texts for text in pair], 100)
  made = ours.encode_some.args[0]
  assert isinstance(made, tokenizers.Tokenizer)
  made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
  made.enable_padding(length=40)
  batch = whole(data)
  for i, (pair, each) in enumerate(zip(texts, examples, strict=True)):
    theirs = made.encode(*pair)
    assert len(theirs.ids) == 40  # nothing was too long
    assert batch["tokens"][i].tolist() == theirs.ids
    assert batch["segments"][i].tolist() == theirs.type_ids
    assert batch["token_mask"][i].tolist() == theirs.attention_mask
    assert batch["label"][i] == each["label"]


def test_keys_and_splits_are_known(glue):
  assert glue("sst2").num_eval == 19
  matched, other = (
    glue("mnli", eval_split=name)
    for name in ("validation_matched", "validation_mismatched")
  )
  assert (matched.num_eval, other.num_eval) == (13, 11)
  assert glue("mnli").num_eval == 13


def test_keys_can_be_named(glue):
  longer = functools.partial(glue, "mnli", tokenizer="bytes", vocab_size=0)
  pair, first, second, turned = (
    whole(longer(text_keys=keys, length=150))
    for keys in (
      None,
      ("premise",),
      "hypothesis",
      ["hypothesis", "premise"],
    )
  )
  assert not first["segments"].any()
  for i in range(30):
    one, two = (
      each["tokens"][i, 1 : each["token_mask"][i].sum()].tolist()
      for each in (first, second)
    )
    size = len(one) + len(two) + 1
    assert pair["tokens"][i, :size].tolist() == [2, *one, *two]
    assert turned["tokens"][i, :size].tolist() == [2, *two, *one]
    assert pair["segments"][i].sum() == len(two)


def test_numbers_make_a_regression(glue):
  data = glue("stsb")
  assert data.offers["num_classes"] == 1
  assert data.features["label"].dtype == np.float32
  labels = whole(data)["label"]
  assert labels.dtype == np.float32
  np.testing.assert_allclose(np.sort(labels), np.arange(30) / 10, rtol=1e-6)


def test_nothing_is_read_before_it_is_asked_for(glue):
  reader = glue("sst2").read_train
  assert not reader.examples.made
  copy = pickle.loads(pickle.dumps(reader))
  assert copy.examples.made
  ours, theirs = (each(np.arange(5), None) for each in (copy, reader))
  for key in ours:
    np.testing.assert_array_equal(ours[key], theirs[key])


def test_splits_share_the_vocabulary_of_the_training_split(glue):
  small = glue("sst2", train_split="train[:3]", vocab_size=60)
  batch = small.read_eval(np.arange(small.num_eval), None)
  assert (batch["tokens"] == 1).any()
  full = glue("sst2", train_split="train+validation", vocab_size=200)
  batch = full.read_eval(np.arange(full.num_eval), None)
  assert not (batch["tokens"] == 1).any()


@pytest.mark.parametrize(
  ("name", "options", "message"),
  [
    ("sst2", {"eval_split": "test"}, "'test' of .* hides its labels.*: train,"),
    ("stsb", {"train_split": "test[:50%]"}, "hides its labels"),
    ("mnli", {"eval_split": "validation"}, "did you mean validation_m"),
    ("mnli", {"text_keys": ("premise", "hypotesis")}, "no feature 'hypotesis'"),
    ("mnli", {"text_keys": ("label",)}, "'label' of .* is not a text"),
    ("mnli", {"text_keys": ()}, "0 names"),
    ("mnli", {"length": 4}, "5 or more"),
    ("sst2", {"label_key": "sentence"}, "neither a class nor a number"),
    ("sst2", {"tokenizer": "word"}, "unknown tokenizer 'word'"),
    ("articles", {"label_key": "id"}, "neither a class nor a number"),
  ],
)
def test_wrong_options(glue, name, options, message):
  with pytest.raises(errors.UserError, match=message):
    glue(name, **options)


def test_a_vocabulary_that_is_too_small(glue):
  data = glue("sst2", vocab_size=10)
  with pytest.raises(errors.UserError, match="vocab_size is 10"):
    next(iter(data.train(4, 0)))


def test_stanford_sentiment_is_what_it_says(real_dir):
  data = jbin.data.sentences(data_dir=real_dir, length=64)
  assert (data.num_train, data.num_eval) == (6920, 872)
  assert data.offers == {
    "num_classes": 2,
    "vocab_size": 8192,
    "max_length": 64,
  }
  batch = whole(data)
  assert batch["label"].sum() == 3610
  assert not (batch["tokens"] == 1).any()
  sizes = batch["token_mask"].sum(1)
  assert 25 < sizes.mean() < 26
  assert (sizes < 64).mean() > 0.99
  evaluated = data.read_eval(np.arange(872), None)
  assert evaluated["label"].sum() == 444
  assert (evaluated["tokens"] == 1).mean() < 1e-4


def test_images_are_no_texts(real_dir):
  message = (
    r"cifar10 has none of .* text_keys to one or two of id, image, label"
  )
  with pytest.raises(errors.UserError, match=message):
    jbin.data.sentences("cifar10", real_dir)
