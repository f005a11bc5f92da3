"""The recipes for texts: BiBERT and BiPFT."""

import re

import numpy as np
import pytest
from flax import nnx

from jbin import schedules
from jbin.cli import _flags
from jbin.train import build, config as config_lib, counting

LAYERS = {
  "layers/attn/query",
  "layers/attn/key",
  "layers/attn/value",
  "layers/attn/out",
  "layers/mlp/fc1",
  "layers/mlp/fc2",
  "pooler",
  "words",
}


@pytest.fixture
def config(root):
  def load(spec):
    return config_lib.from_mapping(_flags.load(str(root / "configs" / spec)))

  return load


def low_bit(made):
  """The paths of layers with a kernel of low bit."""
  model, _ = build.abstract_model(made)
  return {
    "/".join(map(str, path))
    for path, part in nnx.iter_modules(model)
    if getattr(part, "kernel_quantizer", None) is not None
    or getattr(part, "embedding_quantizer", None) is not None
  }


def rate_of(made):
  return build.optimizer(made.optimizer).learning_rate


@pytest.mark.parametrize("argument", ["mnli", "mnli,float"])
def test_bibert_costs_what_the_paper_counts(config, argument):
  """22.35 GFLOPs at 128 tokens, without the data set."""
  macs = counting.cost_report(config(f"bibert_glue.py:{argument}")).macs
  pair = (32, 32) if "float" in argument else (1, 1)
  head = 768 * 3
  binary = 10_871_635_968 + 301_989_888 + 589_824
  assert macs[pair] == binary + (head if pair == (32, 32) else 0)
  assert sum(macs.values()) == binary + head
  assert f"{2 * binary / 1e9:.2f}" == "22.35"


@pytest.mark.parametrize(
  ("task", "steps", "length", "seed", "rate"),
  [
    ("cola", 50 * 535, 64, 42, 1e-4),
    ("qnli", 10 * 6547, 128, 101, 1e-4),
    ("rte", 20 * 156, 128, 42, 1e-5),
    ("stsb", 20 * 360, 128, 42, 1e-4),
  ],
)
def test_bibert_has_the_papers_recipe(config, task, steps, length, seed, rate):
  made = config(f"bibert_glue.py:{task}")
  assert (made.steps, made.batch_size) == (steps, 16)
  assert (made.length, made.seed) == (length, seed)
  assert float(schedules.value(rate_of(made), 0.1)) == pytest.approx(rate)
  assert float(schedules.value(rate_of(made), 1.0)) == 0
  weights = dict(build.task(made).weights)
  assert weights["hidden"] == weights["similarity"] == weights["soft"] == 1
  assert weights["hard"] == (0 if task == "stsb" else 0.5)
  assert made.start.workdir == made.task.kwargs["teacher_workdir"]
  assert made.optimizer.weight_decay == 0.01


@pytest.mark.parametrize(("task", "kind"), [("stsb", "f"), ("mnli", "i")])
def test_labels_without_the_data_set(config, task, kind):
  """A single answer is a number; the cost of training needs its type."""
  features = build.sizes(config(f"bibert_glue.py:{task},float")).features
  assert np.dtype(features["label"].dtype).kind == kind


def test_bibert_is_binary_but_for_the_head(config):
  assert low_bit(config("bibert_glue.py:rte")) == LAYERS
  assert not low_bit(config("bibert_glue.py:rte,float"))


@pytest.mark.parametrize(
  ("kind", "attention", "inside"),
  [
    ("plain", "softmax", 0),
    ("attention", "bool", 0),
    ("distillation", "softmax", 1),
    ("bibert", "bool", 1),
  ],
)
def test_the_parts_of_bibert_one_by_one(config, kind, attention, inside):
  made = config(f"bibert_sst.py:{kind}")
  build.check(made)
  assert low_bit(made) == LAYERS
  assert made.rules.kwargs["attention"] == attention
  weights = dict(build.task(made).weights)
  assert weights["hidden"] == weights["similarity"] == inside
  twin = config("bibert_sst.py:float")
  assert (twin.model, twin.data) == (made.model, made.data)


@pytest.mark.parametrize("argument", ["pretrain", "direct,rte"])
def test_bipft_is_binary_from_its_pretraining_on(config, argument):
  made = config(f"bipft.py:{argument}")
  build.check(made)
  assert low_bit(made) == LAYERS
  assert made.model.kwargs["low_rank"] == 1
  assert made.model.kwargs["pooler_residual"]


def test_bipft_has_the_papers_recipe(config):
  made = config("bipft.py:pretrain,base")
  assert (made.steps, made.batch_size, made.length) == (500_000, 512, 128)
  rate = rate_of(made)
  values = [schedules.value(rate, p) for p in (0.01, 1.0)]
  assert float(values[0]) == pytest.approx(2e-4)
  assert float(values[1]) == 0
  weights = dict(build.task(made).weights)
  assert weights == {"next_sentence": 1.0, "soft": 1.0, "hidden": 1.0}
  made = config("bipft.py:finetune,cola")
  assert (made.steps, made.batch_size) == (50 * 268, 32)
  assert rate_of(made) == 2e-5
  assert made.task.name == "classification"


def test_stages_of_bipft_fit_each_other(config):
  """The same net, the same vocabulary, and what is new or left behind."""
  stages = ("pretrain_float", "pretrain", "finetune", "finetune_float")
  made = {stage: config(f"bipft.py:{stage}") for stage in stages}
  for key in ("vocab_files", "vocab_size", "tokenizer"):
    assert len({str(each.data.kwargs[key]) for each in made.values()}) == 1
  paths = {}
  for stage, each in made.items():
    model, _ = build.abstract_model(each, with_rules=False)
    state = nnx.to_flat_state(nnx.state(model, nnx.Param))
    paths[stage] = {"/".join(map(str, path)) for path, _ in state}
  added = paths["pretrain"] - paths["pretrain_float"]
  new = {
    path for path in added if re.fullmatch(made["pretrain"].start.fresh, path)
  }
  assert added == new != set()
  for stage, source in (
    ("finetune", "pretrain"),
    ("finetune_float", "pretrain_float"),
  ):
    assert made[stage].start.workdir == f"runs/bipft/{source}"
    assert paths[stage] < paths[source]
    left = paths[source] - paths[stage]
    assert all(re.fullmatch(made[stage].start.fresh, path) for path in left)
