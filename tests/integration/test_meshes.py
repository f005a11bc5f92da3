"""One config on meshes 1, 8x1 and 2x4: same losses, intended shardings."""

import json

import jax
import numpy as np
import pytest

from jbin import errors
from jbin.train import checkpoint, loop, program, sharding

MESHES = [(1, 1), (8, 1), (2, 4)]


def _losses(workdir):
  text = (workdir / "metrics.jsonl").read_text()
  return [json.loads(line)["loss"] for line in text.splitlines()]


@pytest.fixture
def config_on(tiny_config):
  return lambda data, fsdp, **changes: tiny_config(
    mesh={"data": data, "fsdp": fsdp},
    log_every=1,
    eval_batch_size=64,
    optimizer__weight_decay=0.0,
    **changes,
  )


@pytest.fixture
def placed(monkeypatch):
  """The specs that `sharding.check` was asked to assert, by array."""
  found = {}
  check = sharding.check

  def check_and_note(tree, shardings, when):
    check(tree, shardings, when)
    leaves = jax.tree.leaves(tree)
    for name, leaf in zip(sharding.path_names(tree), leaves, strict=True):
      found[name] = leaf.sharding.spec

  monkeypatch.setattr(sharding, "check", check_and_note)
  return found


def test_losses_agree_and_arrays_lie_where_they_should(
  config_on, placed, tmp_path
):
  losses = {}
  for data, fsdp in MESHES:
    placed.clear()
    workdir = tmp_path / f"{data}x{fsdp}"
    loop.run(config_on(data, fsdp), workdir)
    losses[data, fsdp] = _losses(workdir)
    split = {name for name, spec in placed.items() if any(spec)}
    # The one array of the tiny net that is large enough, and its moments.
    if fsdp > 1:
      assert "params.head.kernel" in split
      assert len(split) == 3
      assert all(name.endswith("head.kernel") for name in split)
    else:
      assert not split
  for mesh in MESHES[1:]:
    np.testing.assert_allclose(losses[mesh], losses[1, 1], rtol=1e-5, atol=1e-5)


def test_a_run_goes_on_upon_another_mesh(config_on, placed, tmp_path):
  loop.run(config_on(8, 1, steps=10), tmp_path)
  loop.run(config_on(2, 4, steps=20), tmp_path)
  assert any(placed["params.head.kernel"])
  info, _ = checkpoint.Checkpoints(tmp_path / "checkpoints").restore(
    lambda info: {}
  )
  assert info["step"] == 20
  assert info["data"]["step"] == 20
  assert len(_losses(tmp_path)) == 20 + 2


def test_first_step_of_a_binary_net_agrees(config_on, placed, tmp_path):
  """Later a sign may flip: a reduction in another order moves a value by one
  unit in the last place (see ARCHITECTURE.md).
  """
  losses = []
  for data, fsdp in MESHES:
    workdir = tmp_path / f"{data}x{fsdp}"
    model = {"name": "tiny", "width": 8, "dropout": 0.25, "binary": True}
    loop.run(config_on(data, fsdp, steps=3, model=model), workdir)
    losses.append(_losses(workdir))
  assert any(placed["params.head.kernel"])
  first = [run[0] for run in losses]
  np.testing.assert_allclose(first, first[0], rtol=1e-6)
  assert np.all(np.isfinite(losses))


TEXT = {
  "steps": 3,
  "batch_size": 8,
  "length": 16,
  "log_every": 1,
  "eval_every": 0,
  "checkpoint_every": 0,
  "model": {
    "name": "llama",
    "layers": 2,
    "features": 32,
    "heads": 2,
    "mlp_features": 64,
  },
  "data": {"name": "text", "tokenizer": "bytes"},
  "task": "language_model",
}


@pytest.fixture
def text_on(changed_config):
  """The config of a small float language model on a mesh."""
  return lambda changes={}, **mesh: changed_config(
    **{**TEXT, **changes}, mesh={"data": 1, **mesh}
  )


def test_tokens_are_split_along_sequence(text_on, tmp_path):
  losses, temporary = {}, {}
  for sequence in (1, 4):
    config = text_on({"length": 128}, data=2, sequence=sequence)
    loop.run(config, tmp_path / str(sequence))
    losses[sequence] = _losses(tmp_path / str(sequence))
    memory = program.of(config).compile(sharding.of(config.mesh))
    temporary[sequence] = memory.memory_analysis().temp_size_in_bytes
  np.testing.assert_allclose(losses[4], losses[1], rtol=1e-5)
  assert temporary[4] < 0.5 * temporary[1]


@pytest.mark.parametrize(
  ("changes", "mesh", "message"),
  [
    ({}, {"sequence": 3}, "divide texts of 16 tokens; choose a divisor"),
    (
      {"model": {"name": "mamba2", "layers": 1, "features": 32}},
      {"sequence": 2},
      "'mesh.sequence' is 2, and model 'mamba2' does not split its tokens",
    ),
  ],
)
def test_tokens_that_cannot_be_split_are_an_error(
  text_on, changes, mesh, message
):
  config = text_on(changes, **mesh)
  with pytest.raises(errors.UserError, match=message):
    program.of(config).compile(sharding.of(config.mesh))


@pytest.mark.slow
@pytest.mark.parametrize("quantized", [True, False], ids=["1-bit", "float"])
def test_pokebnn_and_its_float_twin(quantized, config_on, placed, tmp_path):
  """Float: all losses agree. 1-bit: the first."""
  model = {
    "name": "pokebnn",
    "stem": "conv3",
    "stages": (1,),
    "features": (32,),
    "quantized": quantized,
    "bounds_at": 0.5,
  }
  first, losses = {}, {}
  for data, fsdp in MESHES:
    workdir = tmp_path / f"{data}x{fsdp}"
    config = config_on(data, fsdp, steps=6, model=model)
    loop.run(config, workdir)
    losses[data, fsdp] = _losses(workdir)
    first[data, fsdp] = losses[data, fsdp][0]
  split = [name for name, spec in placed.items() if any(spec)]
  assert split  # on the last mesh
  for mesh in MESHES[1:]:
    assert first[mesh] == pytest.approx(first[1, 1], rel=1e-6)
    if not quantized:
      np.testing.assert_allclose(
        losses[mesh], losses[1, 1], rtol=1e-5, atol=1e-5
      )
