"""A run that is watched: its files, its warning, and that it stays itself."""

import json
import shutil

import numpy as np
import pytest
from flax import nnx

from jbin import errors, models, nn, quantizers, watch
from jbin.train import config as config_lib, loop

EVERY = 3  # divides no interval of the tiny config
BINARY = {"model__binary": True, "watch": {"every": EVERY}}


def _lines(workdir, name="watch.jsonl"):
  text = (workdir / name).read_text()
  return [json.loads(line) for line in text.splitlines()]


def _run(config, workdir):
  """Runs; the tiny net's signs follow a ReLU, which it says exactly once."""
  with pytest.warns(errors.JbinWarning, match="input of head is 100%") as seen:
    loop.run(config, workdir)
  assert len(seen) == 1


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
  """A workdir where the watched run went through."""
  return tmp_path_factory.mktemp("watched")


@pytest.fixture
def watched(undisturbed, tiny_config):
  """The same; made once."""
  if not (undisturbed / "metrics.jsonl").exists():
    _run(tiny_config(**BINARY), undisturbed)
  return undisturbed


def test_layers_are_written_at_their_steps(watched):
  lines = _lines(watched)
  assert [line["step"] for line in lines] == [3, 6, 9, 12, 15, 18]
  for line in lines:
    assert list(line["layers"]) == ["head"]
    head = line["layers"]["head"]
    assert (head["bits"], head["weights"]) == (1, 1280)
    assert (head["input_bits"], head["input_share"]) == (1, 1.0)
    assert 0 < head["flip_ratio"] < 0.1
    assert 0 < head["scale_min"] <= head["scale_mean"] <= head["scale_max"]
  assert (watched / "report" / "index.html").read_text().count("Zero gradient")


def test_totals_are_those_of_the_last_watched_step(watched):
  totals = {
    line["step"]: watch.total(line["layers"]) for line in _lines(watched)
  }
  train = [
    line
    for line in _lines(watched, "metrics.jsonl")
    if line["split"] == "train"
  ]
  last = {4: 3, 8: 6, 12: 12, 16: 15, 20: 18}
  for line in train:
    for name, number in totals[last[line["step"]]].items():
      assert line[name] == number


def test_a_line_has_totals_only_if_a_step_was_watched(tiny_config, tmp_path):
  config = tiny_config(**BINARY | {"watch": {"every": 6}}, steps=12)
  _run(config, tmp_path)
  train = [
    line["step"]
    for line in _lines(tmp_path, "metrics.jsonl")
    if "flip_ratio" in line
  ]
  assert train == [8, 12]


def test_watching_changes_no_number_of_a_run(watched, tiny_config, tmp_path):
  loop.run(tiny_config(model__binary=True), tmp_path)
  assert not (tmp_path / "watch.jsonl").exists()
  plain = _lines(tmp_path, "metrics.jsonl")
  for line, seen in zip(plain, _lines(watched, "metrics.jsonl"), strict=True):
    assert line == {key: seen[key] for key in line}


def test_stopped_twice_by_sigterm_equals_undisturbed(
  watched, tiny_config, tmp_path, stop_after
):
  for steps in (5, 8):  # the line of step 16 needs what was seen at 15
    with stop_after(steps):
      _run(tiny_config(**BINARY), tmp_path)
  with stop_after(2):
    _run(tiny_config(**BINARY), tmp_path)
  assert _lines(tmp_path)[-1]["step"] == 15
  _run(tiny_config(**BINARY), tmp_path)
  for name in ("metrics.jsonl", "watch.jsonl"):
    assert (tmp_path / name).read_bytes() == (watched / name).read_bytes()


def test_lines_after_the_checkpoint_are_written_again(
  watched, tiny_config, tmp_path, stop_after
):
  with stop_after(9):
    _run(tiny_config(**BINARY), tmp_path)
  shutil.rmtree(tmp_path / "checkpoints" / "9")
  before = (tmp_path / "watch.jsonl").read_bytes()
  assert before.count(b"\n") == 3
  with stop_after(1):
    loop.run(tiny_config(**BINARY | {"watch": {"every": 0}}), tmp_path)
  assert [line["step"] for line in _lines(tmp_path)] == [3, 6]
  shutil.rmtree(tmp_path / "checkpoints" / "7")
  _run(tiny_config(**BINARY), tmp_path)
  for name in ("metrics.jsonl", "watch.jsonl"):
    assert (tmp_path / name).read_bytes() == (watched / name).read_bytes()


def test_a_mesh_sees_the_same_first_step(tiny_config, tmp_path):
  found = []
  for mesh in ({"data": 1, "fsdp": 1}, {"data": 2, "fsdp": 4}):
    workdir = tmp_path / str(mesh["fsdp"])
    changes = {"steps": 1, "watch": {"every": 1}, "mesh": mesh}
    _run(tiny_config(**BINARY | changes), workdir)
    found.append(_lines(workdir)[0]["layers"]["head"])
  for name, number in found[0].items():
    np.testing.assert_allclose(found[1][name], number, rtol=2e-4, err_msg=name)


def test_a_float_model_is_not_watched(tiny_config, tmp_path):
  config = tiny_config(steps=2, watch={"every": 1})
  loop.run(config, tmp_path)
  assert not (tmp_path / "watch.jsonl").exists()


class _Rows(nnx.Module):
  """Reads an image row by row, with a binary cell."""

  def __init__(self, width, num_classes, rngs):
    cell = nnx.SimpleCell(width, width, rngs=rngs)
    cell.dense_i, cell.dense_h = (
      nn.Linear(
        width,
        width,
        input_quantizer=quantizers.sign(),
        kernel_quantizer=quantizers.xnor(),
        rngs=rngs,
      )
      for _ in range(2)
    )
    self.rnn = nnx.RNN(cell)
    self.head = nnx.Linear(width, num_classes, rngs=rngs)

  def __call__(self, x):
    rows = (x - x.mean())[..., 0]
    return self.head(self.rnn(rows)[:, -1])


def image_rows(
  width: int = 8, num_classes: int = 10, *, rngs: nnx.Rngs
) -> nnx.Module:
  """A classifier for images of that width."""
  return _Rows(width, num_classes, rngs)


if "image_rows" not in models.REGISTRY:
  models.REGISTRY.register(image_rows)


def test_the_cell_of_an_rnn_is_watched(tiny_config, tmp_path):
  changes = {"steps": 2, "model": {"name": "image_rows"}, "watch": {"every": 1}}
  loop.run(tiny_config(**changes), tmp_path)
  for line in _lines(tmp_path):
    for name in ("dense_i", "dense_h"):
      layer = line["layers"][f"rnn/cell/{name}"]
      assert layer["input_bits"] == layer["bits"] == 1
      assert 0 < layer["input_share"] <= 1


@pytest.mark.parametrize(
  ("group", "message"),
  [
    ({"every": -1}, "'watch.every' is -1; it must be 0 or more"),
    ({"o": 0.5}, "'watch.o' is 0.5; it must be 1 or more"),
    ({"evry": 5}, "'watch.evry'; did you mean every"),
  ],
)
def test_wrong_keys_are_named(tiny_values, group, message):
  with pytest.raises(errors.UserError) as caught:
    config_lib.from_mapping({**tiny_values, "watch": group})
  assert message in str(caught.value)
