"""The line of positions, on a data set whose images are their own indices."""

import subprocess
import sys

import numpy as np
import pytest

from jbin import errors
from jbin.data import _base

SIZE = 23


def read(indices, draws):
  extra = np.zeros(len(indices)) if draws is None else draws[:, 0]
  images = np.stack([indices, extra], axis=1).astype(np.float32)
  images = images.reshape(-1, 1, 1, 2)
  return {"image": images, "label": indices.astype(np.int32)}


@pytest.fixture
def data():
  return _base.images("own", SIZE, (1, 1, 2), SIZE, 5, read, read, draws=1)


def labels(data, count, *arguments):
  iterator = iter(data.train(*arguments))
  result = np.concatenate([next(iterator)["label"] for _ in range(count)])
  iterator.close()
  return result


def test_each_epoch_has_each_example_once_in_another_order(data):
  epochs = labels(data, SIZE * 3, 4, 0).reshape(-1, SIZE)
  np.testing.assert_array_equal(
    np.sort(epochs, axis=1), np.broadcast_to(np.arange(SIZE), epochs.shape)
  )
  assert len({tuple(epoch) for epoch in epochs.tolist()}) == len(epochs)


def test_neighbouring_seeds_share_no_epoch(data):
  first, second = (labels(data, SIZE * 2, 4, seed) for seed in (0, 1))
  epochs = [first.reshape(-1, SIZE), second.reshape(-1, SIZE)]
  orders = [{tuple(epoch) for epoch in half.tolist()} for half in epochs]
  assert not orders[0] & orders[1]


def test_draws_differ_between_epochs_and_not_between_batch_sizes(data):
  def draws(batch_size):
    iterator = iter(data.train(batch_size, 0))
    steps = 2 * SIZE * 8 // batch_size
    images = [next(iterator)["image"] for _ in range(steps)]
    iterator.close()
    return np.concatenate(images)[: 2 * SIZE, 0, 0, 1]

  ours = draws(4)
  assert len(np.unique(ours)) == 2 * SIZE
  np.testing.assert_array_equal(ours, draws(8))


def test_batch_larger_than_the_data(data):
  found = labels(data, 1, 2 * SIZE, 0)
  np.testing.assert_array_equal(
    np.bincount(found, minlength=SIZE), np.full(SIZE, 2)
  )


@pytest.mark.parametrize("seed", [-1, 2**40, 2**64 + 3])
def test_any_integer_is_a_seed(data, seed):
  assert len(labels(data, 1, 4, seed)) == 4


def test_a_state_of_another_run_is_refused(data):
  iterator = iter(data.train(4, 0))
  state = iterator.get_state()
  assert state == {"step": 0, "seed": 0, "batch_size": 4}
  with pytest.raises(errors.UserError, match=r"seed 1.*seed 0"):
    iterator.set_state({**state, "seed": 1})
  with pytest.raises(errors.UserError, match="batch_size=8"):
    iterator.set_state({**state, "batch_size": 8})
  iterator.close()
  with pytest.raises(ValueError, match="closed"):
    next(iterator)


def test_state_is_saved_and_restored_by_orbax(data, tmp_path):
  import orbax.checkpoint as ocp
  from grain import checkpoint as grain_checkpoint

  iterator = iter(data.train(4, 0))
  for _ in range(3):
    next(iterator)
  with ocp.CheckpointManager(tmp_path) as manager:
    saved = ocp.args.Composite(data=grain_checkpoint.CheckpointSave(iterator))
    manager.save(3, args=saved)
    manager.wait_until_finished()
    expected = [next(iterator) for _ in range(4)]
    fresh = iter(data.train(4, 0))
    restored = manager.restore(
      3,
      args=ocp.args.Composite(data=grain_checkpoint.CheckpointRestore(fresh)),
    )
  for batch in expected:
    found = next(restored["data"])
    np.testing.assert_array_equal(found["image"], batch["image"])
  fresh.close()
  iterator.close()


def test_evaluation_twice_and_with_workers(data):
  alone = data.eval(2)
  first = list(alone)
  for other in (alone, data.eval(2, workers=2)):
    for ours, theirs in zip(other, first, strict=True):
      for key in ours:
        np.testing.assert_array_equal(ours[key], theirs[key])


def test_importing_the_room_is_light(root):
  heavy = ["grain", "sklearn", "tensorflow", "tensorflow_datasets", "PIL"]
  heavy += ["tokenizers"]
  program = (
    "import sys, jbin.data;"
    f"print([name for name in {heavy} if name in sys.modules])"
  )
  done = subprocess.run(
    [sys.executable, "-c", program],
    cwd=root,
    capture_output=True,
    text=True,
    check=True,
  )
  assert done.stdout.strip() == "[]"


def test_reading_needs_no_tensorflow(root, scans_dir, glue_dir):
  program = (
    "import sys, jbin.data;"
    "d = jbin.data.tfds('toy_scans', sys.argv[1], 'inception', image_size=8);"
    "next(iter(d.train(4, 0)));"
    "d = jbin.data.sentences('toy_glue/sst2', sys.argv[2], vocab_size=90);"
    "next(iter(d.train(4, 0)));"
    "print('tensorflow' in sys.modules)"
  )
  done = subprocess.run(
    [sys.executable, "-c", program, scans_dir, glue_dir],
    cwd=root,
    capture_output=True,
    text=True,
    check=True,
  )
  assert done.stdout.strip() == "False"
