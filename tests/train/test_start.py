"""Runs that start from the parameters of another."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jbin import data, errors, models, pretrained
from jbin.train import (
  build,
  counting,
  loop,
  making,
  restore,
  sharding,
  start,
)

STILL = {"name": "sgd", "learning_rate": 0.0}
LOW_BIT = {
  "name": "custom",
  "rules": (
    {
      "path": "head",
      "input_quantizer": {"name": "bit_activation"},
      "kernel_quantizer": {"name": "bivit_weight"},
    },
    {"path": ".*"},
  ),
}


@pytest.fixture(scope="module")
def trained(changed_config, tmp_path_factory):
  """A float run."""
  workdir = tmp_path_factory.mktemp("float")
  loop.run(changed_config(steps=4), workdir)
  return workdir


def _model(config, workdir):
  source = build.dataset(config)
  make = making.maker(config.model, config.rules, made_for=source)
  _, graphdef, state = restore.restore_model(
    make, workdir, sharding.make_mesh(1, 1)
  )
  return nnx.merge(graphdef, *state)


def test_a_low_bit_run_starts_from_a_float_one(
  changed_config, trained, tmp_path
):
  """Parameters and statistics are those; kernel scales are of its kernels."""
  config = changed_config(
    steps=1,
    rules=LOW_BIT,
    optimizer=STILL,
    start={"workdir": str(trained)},
    model__dropout=0.0,
  )
  loop.run(config, tmp_path / "low")
  before = _model(changed_config(), trained)
  after = _model(config, tmp_path / "low")
  for path in ("conv.kernel", "head.kernel", "head.bias", "norm.scale"):
    layer, name = path.split(".")
    np.testing.assert_array_equal(
      getattr(getattr(after, layer), name)[...],
      getattr(getattr(before, layer), name)[...],
    )
  scale = after.head.kernel_quantizer.learned["alpha"][...]
  want = jnp.abs(before.head.kernel[...]).mean(0)
  np.testing.assert_allclose(scale, want, rtol=1e-6)
  first = after.head.input_quantizer.learned["alpha"][...]
  assert abs(float(first) - 2 * np.sqrt(2 / np.pi)) > 0.05  # of the batch

  # From the low-bit run everything is taken, what its quantizers learned too.
  again = changed_config(
    steps=1,
    rules=LOW_BIT,
    optimizer=STILL,
    seed=5,
    start={"workdir": str(tmp_path / "low"), "fresh": "head/bias"},
  )
  loop.run(again, tmp_path / "again")
  copy = _model(again, tmp_path / "again")
  np.testing.assert_array_equal(
    copy.head.input_quantizer.learned["alpha"][...], first
  )


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"model__width": 4}, r"of another shape: conv/kernel \(3, 3, 1, 8\)"),
    (
      {"start": {"workdir": "FLOAT", "fresh": "head/kernels"}},
      "matches no path .*; near it: head/kernel",
    ),
    ({"start": {"workdir": "FLOAT", "fresh": ".*"}}, "leaves nothing of"),
    ({"start": {"workdir": "/nowhere"}}, "no checkpoint in"),
    ({"start": {"workdir": "a", "weights": "b"}}, "both set"),
    ({"start": {"fresh": "a"}}, "start from nothing"),
    ({"start": {"workdir": "a", "fresh": "("}}, "no regular expression"),
  ],
)
def test_what_does_not_fit_is_named(
  changes, message, changed_config, trained, tmp_path
):
  changes = {"start": {"workdir": "FLOAT"}, **changes}
  if changes["start"].get("workdir") == "FLOAT":
    changes["start"] = {**changes["start"], "workdir": str(trained)}
  with pytest.raises(errors.UserError, match=message):
    loop.run(changed_config(steps=1, **changes), tmp_path)


def test_missing_and_left_over_paths_are_named(changed_config, trained):
  class Other(nnx.Module):
    def __init__(self, rngs):
      self.conv = nnx.Conv(1, 8, (3, 3), use_bias=False, rngs=rngs)
      self.heads = nnx.Linear(128, 10, rngs=rngs)

  other = nnx.eval_shape(lambda: Other(nnx.Rngs(0)))
  settings = changed_config(start={"workdir": str(trained)}).start
  with pytest.raises(errors.UserError) as caught:
    start.load(settings, other, other, data.digits(), print)
  text = str(caught.value)
  assert "missing there: heads/bias, heads/kernel" in text
  assert "of no use here: head/bias, head/kernel, norm/bias" in text
  assert "is heads/bias called head/bias there?" in text
  fits = changed_config(
    start={"workdir": str(trained), "fresh": "heads?/.*|norm/.*"}
  )
  found = start.load(fits.start, other, other, data.digits(), print)
  assert set(found) == {"conv/kernel"}


def test_words_have_to_be_those_that_a_run_learned():
  """Rows of a table as many as before say nothing of that."""
  images = ("digits", None)
  texts = ("text", lambda: types.SimpleNamespace(digest="a"))
  for said in ({"vocabulary": "a"}, {"vocabulary": ""}, {}):
    start.check_vocabulary(said, *texts, "run")
  start.check_vocabulary({"vocabulary": "b"}, *images, "run")
  with pytest.raises(errors.UserError, match="run learned another vocabulary"):
    start.check_vocabulary({"vocabulary": "b"}, *texts, "run")


def test_a_model_may_adapt_what_it_starts_from(changed_config, trained):
  class Other(nnx.Module):
    def __init__(self, rngs):
      self.out = nnx.Linear(128, 10, rngs=rngs)

    def adapt(self, values):
      taken = {"out/kernel": "head/kernel", "out/bias": "head/bias"}
      return {mine: values[theirs] for mine, theirs in taken.items()}

  other = nnx.eval_shape(lambda: Other(nnx.Rngs(0)))
  settings = changed_config(start={"workdir": str(trained)}).start
  found = start.load(settings, other, other, data.digits(), print)
  made = jax.jit(
    lambda values: nnx.state(start.put(Other(nnx.Rngs(0)), values))
  )(found)
  np.testing.assert_array_equal(made["out"]["bias"][...], found["out/bias"])


VIT = {
  "name": "vit",
  "patch": 4,
  "features": 8,
  "heads": 2,
  "depth": 1,
  "eps": 1e-12,
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
  """A small pretrained model in a folder, with another number of classes."""
  folder = tmp_path_factory.mktemp("weights") / "vit"
  arguments = {key: item for key, item in VIT.items() if key != "name"}
  model = models.vit(
    3, image_size=8, in_features=1, **arguments, rngs=nnx.Rngs(7)
  )
  pretrained.save(model, folder)
  return folder, model


def test_a_run_starts_from_pretrained_weights(
  changed_config, weights, tmp_path
):
  folder, model = weights
  config = changed_config(
    steps=1,
    model=VIT,
    optimizer=STILL,
    start={"weights": str(folder), "fresh": "head/.*"},
  )
  loop.run(config, tmp_path)
  after = _model(config, tmp_path)
  np.testing.assert_array_equal(
    after.blocks.mlp.fc1.kernel[...], model.blocks.mlp.fc1.kernel[...]
  )
  assert after.head.kernel.shape == (8, 10)
  with pytest.raises(errors.UserError, match="head"):
    loop.run(
      changed_config(steps=1, model=VIT, start={"weights": str(folder)}),
      tmp_path / "other",
    )


def test_a_teacher_is_pretrained(changed_config, tmp_path):
  """It needs no workdir; the student learns its answers, not the labels."""
  arguments = {key: item for key, item in VIT.items() if key != "name"}
  model = models.vit(
    10, image_size=8, in_features=1, **arguments, rngs=nnx.Rngs(7)
  )
  pretrained.save(model, tmp_path / "vit")
  config = changed_config(
    steps=2,
    model=VIT,
    task={
      "name": "distillation",
      "teacher_weights": str(tmp_path / "vit"),
      "teacher": VIT,
    },
    start={"weights": str(tmp_path / "vit")},
    optimizer=STILL,
  )
  found = loop.run(config, tmp_path / "run")
  assert found["agreement"] == 1.0
  report = counting.training_report(config)
  assert any(path.startswith("teacher/") for path in report.parameters)
