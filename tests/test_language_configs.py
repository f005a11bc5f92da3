"""The recipes of language models: Bi-Mamba, and small nets on text."""

import math

import jax
import pytest
from flax import nnx

from jbin import schedules
from jbin.cli import _flags
from jbin.train import build, counting, program, sharding

GIB = 2**30


@pytest.fixture
def config(root):
  def load(spec, *overrides):
    argv = [f"--config={root / 'configs' / spec}", *overrides]
    _, _, made = _flags.parse("train", argv, {}, config=True)
    return made

  return load


def low_bit(made):
  """The paths of layers with a kernel of low bit."""
  model, _ = build.abstract_model(made)
  return {
    "/".join(map(str, path))
    for path, part in nnx.iter_modules(model)
    if getattr(part, "kernel_quantizer", None) is not None
  }


BINARY_MACS = {
  "780m": 701_890_560,
  "1.3b": 1_239_416_832,
  "2.7b": 2_571_632_640,
}


@pytest.mark.parametrize("size", BINARY_MACS)
def test_a_token_of_bimamba(config, size):
  """Binary multiply-accumulates, as the paper's sizes give them."""
  report = counting.decoding_report(config(f"bimamba.py:{size}"))
  assert report.macs[16, 1] == BINARY_MACS[size]
  state = report.memory().states
  assert sum(n for _, n in state.values()) > 0


@pytest.mark.parametrize(
  ("argument", "stored"), [("2.7b,float", 5.0340), ("2.7b", 0.5452)]
)
def test_what_bimamba_stores(config, argument, stored):
  """The paper's 5.03 and 0.55 GB, with the padded vocabulary of Mamba-2."""
  made = config(f"bimamba.py:{argument}", "--config.model.vocab_size=50288")
  report = counting.cost_report(made, param_dtype="bfloat16")
  assert round(report.memory().parameters_bytes / GIB, 4) == stored
  assert f"{stored:.4f} GiB" in report.to_table()


def test_bimamba_has_the_papers_recipe(config):
  made = config("bimamba.py:780m")
  build.check(made)
  assert (made.batch_size, made.length, made.seed) == (256, 2048, 11111)
  assert made.steps == 360 * 1_706_976 // 256
  optimizer = build.optimizer(made.optimizer)
  rate = lambda step: float(
    schedules.value(optimizer.learning_rate, step / made.steps)
  )
  assert rate(1000) == pytest.approx(1.25e-4, rel=1e-3)
  assert rate(2000) == pytest.approx(2.5e-4, rel=1e-3)
  assert rate(made.steps) == pytest.approx(2.5e-5)
  assert made.optimizer.kwargs == {"b1": 0.9, "b2": 0.95, "eps": 1e-8}
  assert (made.optimizer.decay, made.optimizer.clip_norm) == ("all", 1.0)
  weights = dict(build.task(made).weights)
  assert (weights["soft"], weights["hard"]) == (1.0, 0.0)
  assert low_bit(made) == {"layers/mixer/in_proj", "layers/mixer/out_proj"}
  assert not low_bit(config("bimamba.py:130m,float"))


@pytest.mark.parametrize("argument", ["130m,labels", "780m"])
def test_no_parameter_of_bimamba_is_on_every_device(config, argument):
  """fsdp splits all of them and their moments; tensor those of wide layers."""
  step = program.of(config(f"bimamba.py:{argument}"))
  mesh = sharding.make_mesh(1, 4, 2)
  for tree in (step.state, step.step.teacher.state):
    names = sharding.path_names(tree)
    leaves = jax.tree.leaves(tree)
    specs = [
      each.spec for each in jax.tree.leaves(sharding.intended(tree, mesh))
    ]
    for name, leaf, spec in zip(names, leaves, specs, strict=True):
      if math.prod(leaf.shape) < sharding.SMALL:
        continue
      assert any(spec), f"{name} {leaf.shape} is replicated"
      if name.endswith(("proj.kernel", "embedding")):
        assert {*spec} >= {"fsdp", "tensor"}, name


def test_a_sharded_step_of_bimamba_compiles(config):
  """As `jbin cost --training --compiled` compiles it, without an array."""
  made = config(
    "bimamba.py:130m,labels",
    "--config.batch_size=8",
    "--config.length=512",
    "--config.mesh.fsdp=4",
    "--config.mesh.tensor=2",
  )
  step = program.of(made)
  memory = step.compile(sharding.of(made.mesh)).memory_analysis()
  whole = sum(
    math.prod(leaf.shape) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(step.state)
  )
  # An eighth on each device, but for what is small.
  assert memory.argument_size_in_bytes < 1.02 * whole / 8


NETS = {
  "mamba": 0,
  "bimamba": 2,
  "bimamba,labels": 2,
  "llama": 0,
  "fbi_llm": 7,
  "fbi_llm,labels": 7,
}


@pytest.mark.parametrize("net", NETS)
def test_small_nets_on_text(config, net):
  made = config(f"bimamba_text.py:{net}")
  build.check(made)
  assert len(low_bit(made)) == NETS[net]
  teacher = made.task.kwargs.get("teacher_workdir", "")
  twin = {"bimamba": "runs/text/mamba", "fbi_llm": "runs/text/llama"}
  assert teacher == twin.get(net, "")


def test_the_binary_nets_are_of_equal_size(config):
  sizes = []
  for net in ("bimamba", "fbi_llm"):
    report = counting.cost_report(config(f"bimamba_text.py:{net}"))
    sizes.append(report.weights_by_bits[1])
  assert sizes[0] == pytest.approx(sizes[1], rel=0.05)
