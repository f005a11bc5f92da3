"""The lines of metrics.jsonl."""

import json

import numpy as np
import pytest

from jbin.train import metrics


def _steps(path):
  return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_numbers_are_written_in_full(tmp_path):
  path = tmp_path / "m.jsonl"
  writer = metrics.JsonLines(path, 0)
  writer.scalars(3, "train", {"loss": 0.1 + 0.2})
  assert path.read_text() == (
    '{"step": 3, "split": "train", "loss": 0.30000000000000004}\n'
  )
  writer.close()


@pytest.mark.parametrize(
  "tail", ["", '{"step": 4, "spl', "\n", "null\n", '{"x": 1}\n']
)
def test_going_on_removes_what_came_after(tmp_path, tail):
  path = tmp_path / "m.jsonl"
  lines = [
    json.dumps({"step": step, "split": "train"}) for step in (1, 2, 2, 3)
  ]
  path.write_text("\n".join(lines) + "\n" + tail)
  metrics.JsonLines(path, 2).close()
  assert _steps(path) == [1, 2, 2]
  metrics.JsonLines(path, 0).close()
  assert _steps(path) == []


def test_means_put_the_loss_first_and_nothing_in_place_of_nothing():
  sums = {"a": (6.0, 4.0), "loss": (1.0, 2.0), "empty": (0.0, 0.0)}
  assert list(metrics.means(sums).items()) == [
    ("loss", 0.5),
    ("a", 1.5),
  ]


def test_correlations_are_in_place_of_their_parts():
  kinds = ("true_positive", "false_positive", "false_negative", "true_negative")
  sums = {"loss": (2.0, 4.0), **dict.fromkeys(kinds, (1.0, 4.0))}
  assert metrics.means(sums) == {"loss": 0.5, "f1": 0.5, "matthews": 0.0}


def test_what_is_not_finite_is_named():
  error = metrics.not_finite("the loss is nan", 7, 1, None)
  assert str(error).startswith("step 7 cannot be taken: the loss is nan; lower")
  error = metrics.not_finite("the loss is nan", 7, 3, 5)
  assert "after 2 others that were left out: the loss" in str(error)
  assert "the checkpoint of step 5 is good" in str(error)
  assert "lower optimizer.learning_rate" in str(error)
  error = metrics.not_finite("input 'image' of the batch has 1", 7, 1, 5)
  assert "look at that example" in str(error)
  error = metrics.not_finite("the norm is over guard.spike=5", 7, 1, 5)
  assert "raise guard.spike" in str(error)


def test_what_is_not_finite_in_an_evaluation_is_named():
  fine = {"image": np.zeros((2, 3), np.float32), "label": np.zeros(2, np.int32)}
  bad = fine | {"image": np.full((2, 3), np.inf, np.float32)}
  metrics.check_finite({"loss": 1.0}, 3, None, [bad])
  for examples, saved, said in (
    (
      [fine, bad],
      2,
      "input 'image' of the evaluation's batch 2 has 6 of 6 val",
    ),
    ([fine], None, "not finite at step 3: its inputs are finite"),
  ):
    with pytest.raises(FloatingPointError, match=said) as caught:
      metrics.check_finite({"loss": float("inf")}, 3, saved, examples)
    assert ("checkpoint of step 2 is good" in str(caught.value)) == bool(saved)


def test_tensorboard_writes_events(tmp_path):
  pytest.importorskip("tensorboardX")
  writer = metrics.TensorBoard(tmp_path, 0)
  writer.scalars(1, "train", {"loss": 1.0})
  writer.close()
  assert list(tmp_path.glob("events.*"))


def test_tensorboard_that_is_missing_is_a_clear_error(tmp_path, monkeypatch):
  monkeypatch.setitem(__import__("sys").modules, "tensorboardX", None)
  with pytest.raises(ValueError, match=r"pip install 'jbin\[tensorboard\]'"):
    metrics.TensorBoard(tmp_path, 0)
