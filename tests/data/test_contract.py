"""What every source must keep. A new source is one row of `ROWS`."""

import json
import subprocess
import sys

import numpy as np
import pytest
from absl import flags

import jbin.data
from jbin import errors

# name of the row: (source, its arguments). These names stand for what a fixture
# finds or makes: folders of small and of real prepared sets, and a text file.
PLACES = {
  "SCANS": "scans_dir",
  "GLUE": "glue_dir",
  "ARTICLES": "articles_file",
  "REAL": "real_dir",
}
ROWS = {
  "digits": ("digits", {}),
  "digits, shifted": ("digits", {"augment": True}),
  "synthetic": (
    "synthetic",
    {"image_shape": (9, 7, 2), "num_train": 50, "num_eval": 21},
  ),
  "tfds, inception": (
    "tfds",
    {
      "dataset": "toy_scans",
      "data_dir": "SCANS",
      "preset": "inception",
      "image_size": 16,
    },
  ),
  "tfds, cached": (
    "tfds",
    {
      "dataset": "toy_scans",
      "data_dir": "SCANS",
      "preset": "cifar",
      "image_size": 16,
    },
  ),
  "tfds, decoded": (
    "tfds",
    {
      "dataset": "toy_scans",
      "data_dir": "SCANS",
      "preset": "cifar",
      "image_size": 16,
      "cached": False,
    },
  ),
  "cifar10": (
    "tfds",
    {
      "data_dir": "REAL",
      "train_split": "train[:200]",
      "eval_split": "test[:21]",
    },
  ),
  "sentences": (
    "sentences",
    {
      "dataset": "toy_glue/sst2",
      "data_dir": "GLUE",
      "vocab_size": 80,
      "length": 12,
    },
  ),
  "sentences, pairs": (
    "sentences",
    {
      "dataset": "toy_glue/mnli",
      "data_dir": "GLUE",
      "tokenizer": "bytes",
      "length": 40,
    },
  ),
  "sentences, numbers": (
    "sentences",
    {
      "dataset": "toy_glue/stsb",
      "data_dir": "GLUE",
      "vocab_size": 80,
      "vocab_files": "ARTICLES",
      "length": 20,
    },
  ),
  "stanford sentiment": (
    "sentences",
    {
      "data_dir": "REAL",
      "train_split": "train[:200]",
      "eval_split": "validation[:21]",
      "vocab_size": 512,
      "length": 32,
    },
  ),
  "masked text": (
    "masked_text",
    {"files": "ARTICLES", "vocab_size": 80, "eval_share": 0.3, "length": 28},
  ),
  "masked text, prepared": (
    "masked_text",
    {
      "dataset": "toy_glue/articles",
      "data_dir": "GLUE",
      "tokenizer": "bytes",
      "next_sentence": False,
      "length": 50,
    },
  ),
  "text": (
    "text",
    {"files": "ARTICLES", "tokenizer": "wordpiece", "length": 24},
  ),
  "text, prepared": (
    "text",
    {
      "dataset": "toy_glue/articles",
      "data_dir": "GLUE",
      "train_split": "train[:50%]",
      "length": 50,
    },
  ),
}


@pytest.fixture(params=ROWS, scope="module")
def data(request):
  """The data set of each row in turn."""
  source, arguments = ROWS[request.param]
  arguments = {
    key: request.getfixturevalue(PLACES[value])
    if isinstance(value, str) and value in PLACES
    else value
    for key, value in arguments.items()
  }
  return jbin.data.REGISTRY.get(source)(**arguments)


def take(iterator, count):
  return [next(iterator) for _ in range(count)]


def batches(data, count, *arguments, **options):
  iterator = iter(data.train(*arguments, **options))
  result = take(iterator, count)
  iterator.close()
  return result


def assert_equal(ours, theirs):
  assert len(ours) == len(theirs)
  for one, other in zip(ours, theirs, strict=True):
    assert one.keys() == other.keys()
    for key in one:
      np.testing.assert_array_equal(one[key], other[key])


def joined(shares):
  """Global batches from the lists of each process."""
  return [
    {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    for parts in zip(*shares, strict=True)
  ]


def test_every_source_has_a_row():
  ours = {  # a test may register sources of its own
    name
    for name in jbin.data.REGISTRY
    if jbin.data.REGISTRY.get(name).__module__.startswith("jbin.")
  }
  assert ours == {source for source, _ in ROWS.values()}


def test_every_source_says_what_it_is():
  for name, line in jbin.data.REGISTRY.describe():
    assert line.endswith("."), name


def real_rows(data):
  """The whole evaluation split, without padding."""
  padded = joined([list(data.eval(8))])
  whole = {
    key: np.concatenate([batch[key] for batch in padded]) for key in padded[0]
  }
  return {key: array[whole["mask"] == 1] for key, array in whole.items()}


def test_shapes_and_dtypes(data):
  batch = batches(data, 1, 6, 0)[0]
  assert batch.keys() == data.features.keys()
  for name, feature in data.features.items():
    assert batch[name].shape == (6, *feature.shape)
    assert batch[name].dtype == feature.dtype
  if "label" in batch and batch["label"].dtype == np.int32:
    labels = real_rows(data)["label"]
    assert labels.min() >= 0
    assert labels.max() < data.num_classes


def check_images(data):
  images = batches(data, 1, 6, 0)[0]["image"]
  assert images.shape == (6, *data.image_shape)
  assert images.dtype == np.float32
  assert np.abs(images).max() < 20
  assert images.std() > 0.1


def check_texts(data):
  for batch in (batches(data, 1, 16, 0)[0], real_rows(data)):
    tokens = batch["tokens"]
    assert data.offers["max_length"] == tokens.shape[1]
    assert data.tokenizer().digest
    assert tokens.min() >= 0
    assert tokens.max() < data.offers["vocab_size"]
    if "token_mask" not in batch:
      check_next_tokens(batch)
      continue
    kept = batch["token_mask"]
    assert set(np.unique(kept)) <= {0, 1}
    assert (kept[:, 0] == 1).all()
    assert (np.diff(kept, axis=1) <= 0).all()
    assert set(np.unique(batch["segments"])) <= {0, 1}
    assert not batch["segments"][kept == 0].any()
    assert not tokens[kept == 0].any()


def check_next_tokens(batch):
  tokens, targets = batch["tokens"], batch["targets"]
  np.testing.assert_array_equal(tokens[:, 1:], targets[:, :-1])
  assert batch["target_bytes"].min() > 0


def test_inputs_are_what_models_take(data):
  checks = {"image": check_images, "tokens": check_texts}
  checks[next(iter(data.features))](data)


def test_a_seed_is_a_run(data):
  first = batches(data, 3, 8, 1)
  assert_equal(first, batches(data, 3, 8, 1))
  other = batches(data, 3, 8, 2)
  name = next(iter(data.features))
  assert not np.array_equal(first[0][name], other[0][name])


@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_the_same_batches(data, count):
  whole = batches(data, 6, 8, 3)
  shares = [batches(data, 6, 8, 3, p, count) for p in range(count)]
  assert {len(x) for x in shares[0][0].values()} == {8 // count}
  assert_equal(joined(shares), whole)


def test_a_saved_position_goes_on_exactly(data):
  iterator = iter(data.train(8, 5))
  take(iterator, 3)
  state = json.loads(json.dumps(iterator.get_state()))
  expected = take(iterator, 7)
  iterator.close()

  fresh = iter(data.train(8, 5))
  fresh.set_state(state)
  assert fresh.get_state() == state
  assert_equal(take(fresh, 7), expected)
  # Back again, on an iterator that has read ahead.
  fresh.set_state(state)
  assert_equal(take(fresh, 2), expected[:2])
  fresh.close()

  shares = []
  for process in range(2):
    half = iter(data.train(8, 5, process, 2))
    half.set_state(state)
    shares.append(take(half, 7))
    half.close()
  assert_equal(joined(shares), expected)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_evaluation_loses_nothing(data, count):
  whole = list(data.eval(data.num_eval))
  assert len(whole) == 1
  assert whole[0]["mask"].all()

  shares = [list(data.eval(8, p, count)) for p in range(count)]
  passes = joined(shares)
  assert len(passes) == len(data.eval(8)) == -(-data.num_eval // 8)
  for batch in passes:
    assert batch["mask"].dtype == np.float32
    for name, feature in data.features.items():
      assert batch[name].shape == (8, *feature.shape)
      assert batch[name].dtype == feature.dtype
      assert not batch[name][batch["mask"] == 0].any()
  real = np.concatenate([batch["mask"] for batch in passes]) == 1
  assert real.sum() == data.num_eval
  for key in data.features:
    ours = np.concatenate([batch[key] for batch in passes])[real]
    np.testing.assert_array_equal(ours, whole[0][key])


def test_batch_that_cannot_be_shared(data):
  with pytest.raises(
    errors.UserError, match=r"10 .* process_count 4.* 8 or 12"
  ):
    data.train(10, 0, 0, 4)
  with pytest.raises(
    errors.UserError, match=r"2 .* process_count 4.* choose 4"
  ):
    data.eval(2, 0, 4)
  with pytest.raises(errors.UserError, match="from 0 to 1"):
    data.train(8, 0, 2, 2)
  with pytest.raises(errors.UserError, match="1 or more"):
    data.train(0, 0)
  with pytest.raises(errors.UserError, match="workers"):
    data.train(8, 0, workers=-1)


# Starting workers takes seconds: one row for each reader that they must carry.
@pytest.mark.parametrize(
  "data",
  [
    "digits, shifted",
    "synthetic",
    "tfds, inception",
    "sentences",
    "masked text",
  ],
  indirect=True,
)
def test_workers_change_nothing(data):
  # As in a notebook or under pytest, where no absl app has parsed the flags.
  flags.FLAGS.unparse_flags()
  expected = batches(data, 9, 8, 7)
  iterator = iter(data.train(8, 7, workers=2))
  assert_equal(take(iterator, 4), expected[:4])
  # Stopped with workers, gone on with workers, and without.
  state = iterator.get_state()
  take(iterator, 1)
  iterator.set_state(state)
  assert_equal(take(iterator, 2), expected[4:6])
  iterator.close()
  alone = iter(data.train(8, 7))
  alone.set_state(state)
  assert_equal(take(alone, 5), expected[4:])
  alone.close()


KILLED = """
import time
from jbin import data
batches = iter(data.synthetic((8, 8, 1)).train(8, 0, workers=1))
next(batches)
print("ready", flush=True)
time.sleep(100)
"""


def test_workers_end_when_their_parent_is_killed(root):
  process = subprocess.Popen(
    [sys.executable, "-c", KILLED],
    cwd=root,
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
    text=True,
  )
  assert process.stdout is not None
  assert process.stdout.readline() == "ready\n"
  process.kill()
  # The pipe has an end only when nobody holds it any more.
  assert process.communicate(timeout=30)[0] == ""
