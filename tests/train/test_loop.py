"""The loop on a tiny net: it learns, stops, goes on, and refuses."""

import json
import os
import signal

import jax
import numpy as np
import pytest

from jbin import errors
from jbin.train import evaluation, lock, loop, program


def _lines(workdir):
  text = (workdir / "metrics.jsonl").read_text()
  return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
  """A workdir where the tiny config ran through."""
  return tmp_path_factory.mktemp("undisturbed")


@pytest.fixture
def finished(undisturbed, tiny_config):
  """The same; made once."""
  if not (undisturbed / "metrics.jsonl").exists():
    loop.run(tiny_config(), undisturbed)
  return undisturbed


def test_writes_what_the_contract_says(finished, tiny_config):
  lines = _lines(finished)
  train = [line for line in lines if line["split"] == "train"]
  test = [line for line in lines if line["split"] == "test"]
  assert [line["step"] for line in train] == [4, 8, 12, 16, 20]
  assert [line["step"] for line in test] == [10, 20]
  assert list(train[0])[:3] == ["step", "split", "loss"]
  assert {"accuracy", "top5_accuracy", "learning_rate"} <= set(train[0])
  assert train[-1]["loss"] < 0.75 * train[0]["loss"]
  assert test[-1]["accuracy"] > 0.5
  assert json.loads((finished / "config.json").read_text())["steps"] == 20
  kept = sorted(int(p.name) for p in (finished / "checkpoints").iterdir())
  assert kept == [12, 18, 20]
  assert json.loads((finished / "report" / "cost.json").read_text())
  assert (finished / "report" / "index.html").is_file()
  assert (finished / "timing.jsonl").read_text().count("\n") == 5


def test_a_finished_run_stays_as_it_is(finished, tiny_config):
  before = (finished / "metrics.jsonl").read_bytes()
  result = loop.run(tiny_config(), finished)
  assert (finished / "metrics.jsonl").read_bytes() == before
  assert result["accuracy"] == _lines(finished)[-1]["accuracy"]


def test_eval_gives_the_last_line_again(finished, tiny_config):
  assert evaluation.evaluate(tiny_config(), finished) == _lines(finished)[-1]


def test_eval_refuses_a_model_that_computes_something_else(
  finished, tiny_config
):
  # Dropout has no array: the checkpoint would fit.
  with pytest.raises(errors.UserError, match=r"model\.dropout: 0.25 -> 0.5"):
    evaluation.evaluate(tiny_config(model__dropout=0.5), finished)


@pytest.mark.parametrize("size", [37, 359, 512])
def test_evaluation_counts_each_example_once(finished, tiny_config, size):
  found = evaluation.evaluate(tiny_config(eval_batch_size=size), finished)
  want = _lines(finished)[-1]
  assert found["accuracy"] == want["accuracy"]  # a ratio of whole numbers
  np.testing.assert_allclose(found["loss"], want["loss"], rtol=1e-5)


def test_stopped_twice_by_sigterm_equals_undisturbed(
  finished, tiny_config, tmp_path, stop_after, capsys
):
  page = tmp_path / "report" / "index.html"
  page.parent.mkdir()
  page.write_text("of a run that was over with fewer steps")
  # Neither 5 nor 5 + 8 is a multiple of any interval.
  for steps in (5, 8):
    with stop_after(steps):
      assert loop.run(tiny_config(), tmp_path) == {}
    assert not page.exists()
  assert "stopped by SIGTERM and saved after step 13" in capsys.readouterr().err
  loop.run(tiny_config(), tmp_path)
  assert (tmp_path / "metrics.jsonl").read_bytes() == (
    finished / "metrics.jsonl"
  ).read_bytes()


def test_killed_between_a_save_and_its_evaluation_changes_nothing(
  finished, changed_config, tmp_path, monkeypatch
):
  config = changed_config(checkpoint_every=5)
  with monkeypatch.context() as patch:
    patch.setattr(evaluation, "run", _killed)
    with pytest.raises(KeyboardInterrupt):
      loop.run(config, tmp_path)
  assert (tmp_path / "checkpoints" / "10").is_dir()
  loop.run(config, tmp_path)
  assert (tmp_path / "metrics.jsonl").read_bytes() == (
    finished / "metrics.jsonl"
  ).read_bytes()


def _killed(*args):
  raise KeyboardInterrupt


def test_stopped_while_it_compiles(tiny_config, tmp_path, monkeypatch, capsys):
  compiles = program.Program.compile

  def told(made, mesh):
    os.kill(os.getpid(), signal.SIGTERM)
    return compiles(made, mesh)

  monkeypatch.setattr(program.Program, "compile", told)
  assert loop.run(tiny_config(), tmp_path) == {}
  said = capsys.readouterr().err
  assert "stopped by SIGTERM before the first step of 20; the same" in said
  assert not [*(tmp_path / "checkpoints").iterdir()]


def test_two_runs_do_not_share_a_workdir(tiny_config, tmp_path):
  with (
    lock.held(tmp_path, print),
    pytest.raises(
      errors.UserError, match=rf"trains in .*process {os.getpid()}"
    ),
  ):
    loop.run(tiny_config(), tmp_path)
  assert not (tmp_path / "metrics.jsonl").exists()


def test_a_damaged_newest_checkpoint_is_passed_over(
  finished, tiny_config, tmp_path, stop_after, capsys
):
  with stop_after(9):
    loop.run(tiny_config(), tmp_path)
  files = [p for p in (tmp_path / "checkpoints/9").rglob("*") if p.is_file()]
  largest = max(files, key=lambda path: path.stat().st_size)
  largest.write_bytes(largest.read_bytes()[:-1])
  loop.run(tiny_config(), tmp_path)
  said = capsys.readouterr().err
  assert "checkpoint 9 is damaged and passed over" in said
  assert "goes on after step 6 of 20" in said
  assert (tmp_path / "metrics.jsonl").read_bytes() == (
    finished / "metrics.jsonl"
  ).read_bytes()


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"model__width": 16}, r"model\.width: 8 -> 16"),
    ({"seed": 1}, "another config .seed: 0 -> 1.; choose another --workdir"),
    ({"steps": 10}, "a run of 20 steps already, and steps=10"),
  ],
)
def test_a_workdir_of_another_run_is_refused(
  finished, tiny_config, changes, message
):
  with pytest.raises(errors.UserError, match=message):
    loop.run(tiny_config(**changes), finished)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"batch_size": 60, "mesh": {"data": 8}}, "batch_size 60 is not a mult"),
    ({"eval_batch_size": 3, "mesh": {"data": 2}}, "eval_batch_size 3 is not"),
    ({"mesh": {"data": 16}}, "needs 16 devices and there are 8"),
    ({"task": "classfication"}, "unknown task 'classfication'; did you mean"),
    ({"optimizer__name": "adm"}, "unknown optimizer 'adm'; did you mean adam"),
    ({"optimizer__b3": 1}, "optimizer 'adam' takes no argument 'b3'"),
    ({"model__dropout": "a"}, "'dropout' of model 'tiny' is 'a'"),
    ({"task": {"name": "distillation", "teacher_workdir": ""}}, "needs a tra"),
    (
      {"task": {"name": "distillation", "teacher_workdir": "/nowhere"}},
      "/nowhere has no config.json; train it first",
    ),
  ],
)
def test_what_makes_no_run_is_said_before_it_starts(
  tiny_config, tmp_path, changes, message
):
  with pytest.raises(errors.UserError, match=message):
    loop.run(tiny_config(**changes), tmp_path)
  assert not (tmp_path / "checkpoints").exists()


def test_no_checkpoint_is_a_clear_error(tiny_config, tmp_path):
  with pytest.raises(errors.UserError, match=r"no checkpoint in .*train first"):
    evaluation.evaluate(tiny_config(), tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run(tiny_config, tmp_path):
  config = tiny_config(
    steps=12,
    dtype="float32",
    checkpoint_every=2,
    optimizer={
      "name": "sgd",
      # All is well up to progress 1/3: step 5 is the first with a huge rate.
      "learning_rate": {
        "name": "switch",
        "at": 0.33,
        "before": 1e-3,
        "after": 1e38,
      },
    },
  )
  with pytest.raises(FloatingPointError) as caught:
    loop.run(config, tmp_path)
  said = str(caught.value)
  assert said.startswith("step 6 cannot be taken: ")
  assert "layer" in said.split(";")[0]
  assert "checkpoint of step 5 is good; lower optimizer.lea" in said
  # The state before it, too.
  kept = {p.name for p in (tmp_path / "checkpoints").iterdir()}
  assert kept == {"2", "4", "5"}


def test_distillation_learns_from_a_workdir(finished, tiny_config, tmp_path):
  task = {
    "name": "distillation",
    "teacher_workdir": str(finished),
    "temperature": 2.0,
    "hard_weight": {"name": "linear", "start": 0.0, "end": 0.5},
  }
  config = tiny_config(task=task, model__width=4, model__dropout=0.0, seed=3)
  loop.run(config, tmp_path)
  lines = _lines(tmp_path)
  assert lines[-1]["agreement"] > 1.2 * lines[2]["agreement"]
  assert lines[-2]["cross_entropy"] < lines[0]["cross_entropy"]
  model = tmp_path / "checkpoints" / "20" / "info" / "metadata"
  arrays = json.loads(model.read_text())["arrays"]
  # The teacher is twice as wide; nothing of it is in the student's checkpoint.
  assert arrays["model"]["params.conv.kernel"] == "float32[3, 3, 1, 4]"
  assert all("teacher" not in name for name in arrays["model"])


def test_the_hot_loop_lets_nothing_implicit_through(tiny_config):
  # What `transfer_guard` refuses here it refuses in the loop.
  step = jax.jit(lambda x: x + 1)
  with (
    jax.transfer_guard("disallow"),
    pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-"),
  ):
    step(np.float32(1))
