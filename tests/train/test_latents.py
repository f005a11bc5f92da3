"""Runs that treat latent weights in a way of their own."""

import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jbin import errors, regularizers
from jbin.data import _pipeline
from jbin.train import (
  build,
  calibrate,
  evaluation,
  loop,
  making,
  restore,
  sharding,
)
from tests.train import two_layers

assert two_layers  # registers its model

BOP = {"name": "bop", "learning_rate": 0.01, "threshold": 1e-6, "gamma": 1e-2}
GROWS = {"name": "linear", "start": 0.0, "end": 3.0}


def _adam(**settings):
  return {"name": "adam", "learning_rate": 0.01, **settings}


@pytest.fixture
def binary_config(tiny_config):
  def make(kernel="sign", inputs=None, **changes):
    model = {"name": "all_binary"}
    if kernel:
      model["kernel"] = {"name": kernel}
    if inputs:
      model["inputs"] = inputs
    return tiny_config(model=model, **{"optimizer": _adam(), **changes})

  return make


def _lines(workdir):
  text = (workdir / "metrics.jsonl").read_text()
  return [json.loads(line) for line in text.splitlines()]


def _model(config, workdir):
  make = making.maker(config.model, made_for=build.dataset(config))
  mesh = sharding.make_mesh(1, 1)
  _, graphdef, state = restore.restore_model(make, workdir, mesh)
  return nnx.merge(graphdef, *state)


def _kernels(config, workdir):
  model = _model(config, workdir)
  return [
    np.asarray(layer.kernel[...]) for layer in (model.first, model.second)
  ]


def _one_bit(w):
  np.testing.assert_array_equal(np.abs(w), 1)


def _inside(w):
  assert np.abs(w).max() <= 0.25
  assert (np.abs(w) > 0.2499).mean() > 0.05


def _centred(w):
  np.testing.assert_allclose(w.mean(0), 0, atol=2e-3)
  # The extremes are pulled in: many weights have the magnitude of one.
  size = np.sort(np.abs(w), axis=None)
  assert size[0] > 0.01
  np.testing.assert_allclose(size[: w.size // 10], size[0], rtol=0.05)


RUNS = {
  "bop": ("noop", BOP, _one_bit, 0.5),
  "proxquant": (
    "noop",
    {"name": "proxquant", "learning_rate": 0.01, "strength": GROWS},
    _one_bit,
    0.2,
  ),
  "clip": ("sign", _adam(clip_latents=0.25), _inside, 0.5),
  "shrink": ("siman_weight", _adam(shrink_percent=15.0), _centred, 0.5),
}


@pytest.mark.parametrize("name", RUNS)
def test_it_learns_and_weights_are_where_they_should(
  name, binary_config, tmp_path
):
  kernel, optimizer, check, least = RUNS[name]
  config = binary_config(kernel, optimizer=optimizer, steps=60)
  found = loop.run(config, tmp_path)
  assert found["accuracy"] > least
  for w in _kernels(config, tmp_path):
    check(w)


def test_bop_learns_by_its_flips(binary_config, tmp_path):
  """A threshold that nothing passes leaves what the norms can do."""
  still = binary_config("noop", optimizer={**BOP, "threshold": 1e9}, steps=60)
  assert loop.run(still, tmp_path)["accuracy"] < 0.3


def test_bop_stopped_by_sigterm_equals_undisturbed(
  binary_config, tmp_path, monkeypatch
):
  settings = {**BOP, "gamma": {"name": "linear", "start": 0.1, "end": 0.01}}
  mesh = {"data": 2, "fsdp": 4}  # m lies with its weights
  config = binary_config("noop", optimizer=settings, mesh=mesh)
  loop.run(config, tmp_path / "undisturbed")
  with monkeypatch.context() as patch:
    _stop_after(patch, 7)
    assert loop.run(config, tmp_path / "stopped") == {}
  loop.run(config, tmp_path / "stopped")
  want, got = (
    (tmp_path / name / "metrics.jsonl").read_bytes()
    for name in ("undisturbed", "stopped")
  )
  assert got == want
  for w in _kernels(config, tmp_path / "stopped"):
    _one_bit(w)


def _stop_after(monkeypatch, steps):
  read = _pipeline.StepIterator.__next__
  seen = []

  def read_and_stop(self):
    seen.append(1)
    if len(seen) == steps:
      os.kill(os.getpid(), signal.SIGTERM)
    return read(self)

  monkeypatch.setattr(_pipeline.StepIterator, "__next__", read_and_stop)


# --- Settings -----------------------------------------------------------------


@pytest.mark.parametrize(
  ("kernel", "settings", "message"),
  [
    (None, BOP, "optimizer 'bop' is for latent weights of 1 bit, and the mo"),
    ("ttq", BOP, "optimizer 'bop' is for latent weights of 1 bit, and"),
    (None, _adam(clip_latents=1.0), r"optimizer\.clip_latents is for latent"),
    (None, _adam(shrink_percent=5.0), r"shrink_percent is for latent weigh"),
    (
      None,
      {"name": "proxquant", "learning_rate": 0.01},
      "'proxquant' is for latent weights of 1 or 2 bits",
    ),
    (
      None,
      _adam(decay="latents", weight_decay=0.1),
      "decay='latents' is for latent weights of 1 to 8 bits",
    ),
    ("sign", _adam(others="sgd"), "optimizer.others has no meaning"),
    ("sign", {**BOP, "others": "bop"}, "set 'adam', 'adamw' or 'sgd'"),
    ("sign", {**BOP, "others": "adm"}, "did you mean adam"),
    (
      "sign",
      {**BOP, "others": {"name": "adam", "b3": 1}},
      "optimizer 'adam' takes no argument 'b3'",
    ),
    ("sign", {**BOP, "clip_latents": 1.0}, "keeps weights at -1 and 1"),
    (
      "sign",
      {**BOP, "decay": "latents", "weight_decay": 0.1},
      "set optimizer.decay to 'kernels' or 'float'",
    ),
    ("sign", {**BOP, "treshold": 1}, "did you mean threshold"),
    ("sign", {**BOP, "mask": 1}, "takes no argument 'mask' from a config"),
    ("sign", _adam(decay="any"), "it must be 'kernels' or 'float' or 'lat"),
    ("sign", _adam(clip_latents=-1), "'optimizer.clip_latents' is -1.0; it"),
    ("sign", _adam(shrink_percent=51), "it must be from 0 to 50"),
    (
      "sign",
      {"name": "proxquant", "learning_rate": 0.01, "kind": "quaternary"},
      "unknown kind of proxquant 'quaternary'",
    ),
  ],
)
def test_settings_that_make_no_run(
  kernel, settings, message, binary_config, tmp_path
):
  with pytest.raises(errors.UserError, match=message):
    loop.run(binary_config(kernel, optimizer=settings), tmp_path)
  assert not (tmp_path / "checkpoints").exists()


def test_settings_are_checked_without_a_model(binary_config):
  build.check(binary_config(optimizer=BOP))
  build.check(binary_config(None, optimizer=_adam(clip_latents=1.0)))
  with pytest.raises(errors.UserError, match="did you mean threshold"):
    build.check(binary_config(optimizer={**BOP, "treshold": 1}))


def test_decay_of_float_kernels_only(binary_config):
  config = binary_config(
    optimizer=_adam(decay="float", weight_decay=0.5, name="sgd")
  )
  make = making.maker(config.model, made_for=build.dataset(config))
  model = make()
  made = build.optimizer(config.optimizer, model)
  params = nnx.state(model, nnx.Param)
  zeros = jax.tree.map(jnp.zeros_like, params)
  new, _, _ = made.update(zeros, made.init(params), params, 0.0)
  jax.tree.map(np.testing.assert_array_equal, new, params)


# --- Regularizers -------------------------------------------------------------


def test_a_regularizer_is_in_the_loss_and_a_metric(binary_config, tmp_path):
  changes = {"steps": 8, "log_every": 1, "eval_every": 4}
  strength = {"name": "linear", "start": 0.0, "end": 0.1}
  regularizer = {"name": "bonn", "nu": 1e-3, "strength": strength}
  config = binary_config(regularizer=regularizer, **changes)
  found = loop.run(config, tmp_path / "with")
  lines = _lines(tmp_path / "with")
  loop.run(binary_config(regularizer="none", **changes), tmp_path / "without")
  plain = _lines(tmp_path / "without")
  # At progress 0 it weighs nothing; the step after it is another one.
  assert lines[0].pop("regularizer") == 0
  assert lines[0] == plain[0]
  assert lines[2]["loss"] != plain[2]["loss"]
  kernels = [jnp.asarray(w) for w in _kernels(config, tmp_path / "with")]
  want = regularizers.bonn(kernels, 1e-3, 0.1)
  np.testing.assert_allclose(found["regularizer"], want, rtol=1e-5)
  again = evaluation.evaluate(config, tmp_path / "with")
  np.testing.assert_allclose(again["regularizer"], want, rtol=1e-5)


def test_its_gradient_reaches_the_weights(binary_config, tmp_path):
  """Strong enough, nothing but it: every weight is at a level."""
  config = binary_config(
    steps=100,
    optimizer={"name": "sgd", "learning_rate": 1.0},
    regularizer={"name": "proxquant", "strength": 60.0},
  )
  loop.run(config, tmp_path)
  for w in _kernels(config, tmp_path):
    assert np.abs(np.abs(w) - 1).max() < 0.2


@pytest.mark.parametrize(
  ("kernel", "regularizer", "message"),
  [
    (None, "proxquant", "regularizer 'proxquant' is for latent weights"),
    ("sign", "proxquan", "unknown regularizer 'proxquan'; did you mean prox"),
    ("sign", "bonn", "regularizer 'bonn' needs the argument 'nu'"),
    (
      "sign",
      {"name": "bonn", "mu": 1.0},
      "regularizer 'bonn' takes no argument 'mu'",
    ),
    ("sign", {"name": "bonn", "nu": 1.0, "weights": 1}, "no argument 'wei"),
  ],
)
def test_regularizers_that_make_no_run(
  kernel, regularizer, message, binary_config, tmp_path
):
  with pytest.raises(errors.UserError, match=message):
    loop.run(binary_config(kernel, regularizer=regularizer), tmp_path)


# --- The first batch ----------------------------------------------------------

LSQ = {"name": "lsq", "bits": 4}


def _first(config):
  source = build.dataset(config)
  return iter(source.train(config.batch_size, config.seed))


def test_steps_start_from_the_first_batch(binary_config, tmp_path):
  still = {"name": "sgd", "learning_rate": 0.0}
  config = binary_config(inputs=LSQ, optimizer=still, steps=1)
  loop.run(config, tmp_path)
  batches = _first(config)
  image = jnp.asarray(next(batches)["image"])
  batches.close()
  make = making.maker(config.model, made_for=build.dataset(config))
  model = make()
  # The norm takes the batch's statistics, as the step that trains does.
  x = model.norm(model.first(image.reshape(len(image), -1)))
  spec = model.second.input_quantizer.spec
  want = spec.parameters(64, jax.nn.hard_tanh(x))["step"]
  seen = _model(config, tmp_path)
  got = seen.second.input_quantizer.learned["step"][...]
  np.testing.assert_allclose(got, want, rtol=1e-5)
  assert abs(float(got) / float(spec.parameters(64)["step"]) - 1) > 0.05
  # Nothing else has changed: the norm saw one batch, that of the step.
  np.testing.assert_array_equal(seen.first.kernel[...], model.first.kernel[...])
  np.testing.assert_allclose(seen.norm.mean[...], model.norm.mean[...], 1e-4)


def test_no_example_is_lost(tiny_config):
  batches = _first(tiny_config())
  peeked = calibrate.first(batches)
  first = next(batches)
  jax.tree.map(np.testing.assert_array_equal, peeked, first)
  assert batches.get_state()["step"] == 1
  second = calibrate.first(batches)
  assert (second["label"] != first["label"]).any()
  jax.tree.map(np.testing.assert_array_equal, second, next(batches))
  batches.close()


def test_nothing_starts_from_a_batch_that_is_not_finite(
  tiny_config, monkeypatch
):
  batches = _first(tiny_config())
  read = type(batches).__next__

  def spoilt(self):
    batch = read(self)
    image = batch["image"].copy()
    image[0, 0, 0] = np.nan
    return batch | {"image": image}

  monkeypatch.setattr(type(batches), "__next__", spoilt)
  said = r"input 'image' of the first batch has 1 of \d+ values not finite, and"
  with pytest.raises(FloatingPointError, match=said):
    calibrate.first(batches)
  batches.close()


@pytest.mark.parametrize(
  ("kernel", "inputs", "due"),
  [
    ("sign", LSQ, True),
    ("sign", {"name": "delayed", "quantizer": LSQ, "start": 0.5}, True),
    ("sign", {"name": "sign"}, False),
    ("sign", None, False),
    ("xnorpp", None, False),  # a kernel that looks at itself
  ],
)
def test_when_it_is_due(kernel, inputs, due, binary_config):
  config = binary_config(kernel, inputs)
  make = making.maker(config.model, made_for=build.dataset(config))
  assert calibrate.is_due(nnx.eval_shape(make)) == due


def test_stopped_after_a_calibration_equals_undisturbed(
  binary_config, tmp_path, monkeypatch
):
  config = binary_config(inputs=LSQ, mesh={"data": 2, "fsdp": 4})
  loop.run(config, tmp_path / "undisturbed")
  with monkeypatch.context() as patch:
    _stop_after(patch, 8)  # one read more, which looked ahead
    assert loop.run(config, tmp_path / "stopped") == {}
  saved = tmp_path / "stopped" / "checkpoints" / "7"
  assert saved.is_dir()
  with monkeypatch.context() as patch:
    patch.setattr(calibrate, "seen", None)  # not called a second time
    loop.run(config, tmp_path / "stopped")
  want, got = (
    (tmp_path / name / "metrics.jsonl").read_bytes()
    for name in ("undisturbed", "stopped")
  )
  assert got == want
