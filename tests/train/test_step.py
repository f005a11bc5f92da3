"""One step: a batch in parts, the parameters' average, and the guard."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jbin import models
from jbin.data import _pipeline
from jbin.train import (
  evaluation,
  loop,
  program,
  restore,
  sharding,
  start,
  step,
)


def linear_map(
  num_classes: int = 10, in_features: int = 1, *, rngs: nnx.Rngs
) -> nnx.Module:
  """One layer, in which examples do not see each other."""
  return LinearMap(num_classes, in_features, rngs)


class LinearMap(nnx.Module):
  def __init__(self, num_classes, in_features, rngs):
    self.head = nnx.Linear(64 * in_features, num_classes, rngs=rngs)

  def __call__(self, x):
    return self.head(x.reshape(x.shape[0], -1))


if "linear_map" not in models.REGISTRY:
  models.REGISTRY.register(linear_map)

LINEAR = {"name": "linear_map"}
LLAMA = {
  "name": "llama",
  "vocab_size": 32,
  "layers": 2,
  "features": 16,
  "heads": 2,
  "mlp_features": 32,
}


def _lines(workdir, split="train"):
  text = (workdir / "metrics.jsonl").read_text()
  lines = [json.loads(line) for line in text.splitlines()]
  return [line for line in lines if line["split"] == split]


def _close(a, b, **tolerance):
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_allclose(x, y, **tolerance)


def _example(name, shape, dtype, random):
  if dtype == np.int32:
    # A target of -1 is not predicted: parts have unlike numbers of them.
    least = -1 if name == "targets" else 0
    return random.integers(least, 8, shape).astype(np.int32)
  return random.normal(size=shape).astype(np.float32) ** 2 + 1


@pytest.fixture
def run(changed_config):
  """States before and after some steps on one random batch."""

  def go(*, steps=1, spoil=lambda number, batch: batch, **changes):
    made = program.of(changed_config(**changes))
    random = np.random.default_rng(0)
    batch = {
      name: _example(name, x.shape, x.dtype, random)
      for name, x in made.batch.items()
    }
    states = [made.create(jax.random.key(0), {})]
    one = jax.jit(made.step)
    for number in range(1, steps + 1):
      now = step.Now(
        jnp.int32(number), jnp.float32(0.5), jnp.zeros(1, jnp.int32)
      )
      states.append(one(states[-1], spoil(number, batch), now, ())[0])
    return states

  return go


TEXT = {
  "model": LLAMA,
  "length": 12,
  "task": "language_model",
  "data": "text",
  "batch_size": 12,
}
SGD = {"name": "sgd", "learning_rate": 0.1}


@pytest.mark.parametrize(
  "changes",
  [{"model": LINEAR, "batch_size": 12}, TEXT],
  ids=["images", "tokens"],
)
def test_parts_have_the_gradient_of_the_whole_batch(run, changes):
  whole = run(**changes, optimizer=SGD)[-1]
  for parts in (3, 4):
    found = run(**changes, optimizer=SGD, accumulate=parts)[-1]
    _close(whole.params, found.params, rtol=1e-5, atol=1e-6)
    for name in whole.sums:
      _close(whole.sums[name], found.sums[name], rtol=1e-5)


def test_parts_see_the_other_state_one_after_another(run):
  # Two parts move batch statistics twice, and draw dropout's masks twice.
  start, found = run(accumulate=2)
  _, once = run()
  moves = [
    np.asarray(state.rest["norm"]["mean"][...]) for state in (found, once)
  ]
  assert np.abs(moves[0]).sum() > 1.5 * np.abs(moves[1]).sum()
  counts = [
    int(state.rest["dropout"]["rngs"]["count"][...])
    for state in (start, once, found)
  ]
  assert counts == [0, 1, 2]


def test_the_average_follows_its_formula(run):
  states = run(steps=3, ema=0.75)
  mean = states[0].params
  for state in states[1:]:
    mean = jax.tree.map(lambda m, p: 0.75 * m + 0.25 * p, mean, state.params)
    _close(mean, state.ema, rtol=1e-6, atol=1e-7)
  # Evaluation takes it.
  assert states[-1].model[0] is states[-1].ema
  assert run()[-1].ema == ()
  half = run(ema={"name": "linear", "start": 1.0, "end": 0.0})[-1]
  mean = jax.tree.map(lambda a, b: (a + b) / 2, states[0].params, half.params)
  _close(mean, half.ema, rtol=1e-6, atol=1e-7)


def _nan_at(*steps):
  def spoil(number, batch):
    if number not in steps:
      return batch
    return batch | {"image": np.full_like(batch["image"], np.nan)}

  return spoil


def test_a_step_that_is_not_finite_is_not_taken(run):
  fine = run(steps=2, ema=0.5)
  found = run(steps=5, ema=0.5, spoil=_nan_at(2, 3, 5), guard={"skip": 2})
  assert [int(state.health.skipped) for state in found] == [0, 0, 1, 2, 2, 3]
  assert [int(state.health.bad) for state in found] == [-1] * 5 + [5]
  _same(found[1], found[2])
  _same(found[1], found[3])
  _same(found[4], found[5])
  assert int(found[4].sums["loss"][1]) == 2 * 64
  assert not np.array_equal(_kernel(fine[2]), _kernel(found[1]))


def _kernel(state):
  return np.asarray(state.params["head"]["kernel"][...])


def _same(a, b):
  """All but the guard's own, random keys too."""
  a, b = (jax.tree.leaves(tuple(state[:5])) for state in (a, b))
  for x, y in zip(a, b, strict=True):
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
      x, y = jax.random.key_data(x), jax.random.key_data(y)
    np.testing.assert_array_equal(x, y)


def test_no_step_is_taken_after_the_one_that_ends_the_run(run):
  found = run(steps=4, spoil=_nan_at(2))
  assert [int(state.health.bad) for state in found] == [-1, -1, 2, 2, 2]
  _same(found[1], found[4])


def test_a_spike_of_the_gradient_is_not_taken(run):
  """Once the mean is one to compare with; and it follows what stays high."""

  def spoil(number, batch):
    high = number in (3, 23) or number > 24
    return batch | {"image": batch["image"] * (1 + 19 * high)}

  slow = {"name": "sgd", "learning_rate": 1e-6}
  given = {"model": LINEAR, "optimizer": slow, "spoil": spoil, "steps": 40}
  taken = run(**given, guard={"skip": 50})
  norms = np.diff([float(s.sums["gradient_norm"][0]) for s in taken])
  assert norms[2] > 10 * norms[1]
  assert int(taken[-1].health.skipped) == 0
  mean, most = 0.0, 4.0
  skipped = 0
  for n, norm in enumerate(norms, 1):
    if n > 20:
      skipped += norm > most * mean
      norm = min(norm, most * mean)
    mean += max(1 / n, 0.01) * (norm - mean)
  found = run(**given, guard={"skip": 50, "spike": most})
  assert [int(s.health.skipped) for s in found[:24]] == [0] * 23 + [1]
  _same(found[22], found[23])
  assert 10 < skipped < 17
  assert int(found[-1].health.skipped) == skipped
  np.testing.assert_allclose(found[-1].health.norm, mean, rtol=1e-2)


def test_statistics_that_overflow_are_not_taken(run):
  def spoil(number, batch):
    image = batch["image"].copy()
    image[0, 0, 0, 0] = 1e20 if number == 2 else 0
    return batch | {"image": image}

  found = run(steps=3, spoil=spoil, guard={"skip": 5})
  assert [int(state.health.skipped) for state in found] == [0, 0, 1, 1]
  _same(found[1], found[2])


def test_the_guard_reduces_once_for_each_shape(changed_config):
  """Of each reduction XLA on CPU makes a program of its own."""
  made = program.of(changed_config(model={"name": "resnet20", "width": 4}))
  moved = jax.eval_shape(
    made.step.advance, made.state, made.batch, made.now(), ()
  )
  asked = str(jax.make_jaxpr(made.step.is_fine)(made.state, moved))
  arrays = jax.tree.leaves((moved.params, moved.rest, moved.opt_state))
  shapes = {x.shape for x in arrays}
  assert 8 <= len(shapes) <= asked.count("reduce_and") <= len(shapes) + 8
  assert len(arrays) > 150


# --- In the loop --------------------------------------------------------------

ALL = {
  "accumulate": 2,
  "ema": 0.8,
  "guard": {"skip": 3, "spike": 50.0},
  "workers": 2,
}


@pytest.fixture
def spoiled(monkeypatch):
  """`spoiled(5, 6)`: the batches of these steps have a NaN in an image."""

  def spoil(*steps):
    read = _pipeline.StepIterator.__next__

    def read_and_spoil(self):
      batch = dict(read(self))
      if self.get_state()["step"] in steps:
        batch["image"] = batch["image"].copy()
        batch["image"][0, 0, 0, 0] = np.nan
      return batch

    monkeypatch.setattr(_pipeline.StepIterator, "__next__", read_and_spoil)

  return spoil


def test_with_everything_on_stopping_changes_nothing(
  tmp_path, tiny_config, stop_after, spoiled
):
  """Parts, average, guard, workers, dropout, augmentation, a teacher."""
  teacher = tmp_path / "teacher"
  loop.run(tiny_config(steps=4), teacher)
  spoiled(7)
  task = {"name": "distillation", "teacher_workdir": str(teacher)}
  config = tiny_config(steps=20, task=task, log_every=1, **ALL)
  loop.run(config, tmp_path / "whole")
  for steps in (5, 3):
    with stop_after(steps):
      assert loop.run(config, tmp_path / "parts") == {}
  loop.run(config, tmp_path / "parts")
  found = (tmp_path / "parts" / "metrics.jsonl").read_bytes()
  assert found == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
  lines = _lines(tmp_path / "whole")
  assert [line["skipped"] for line in lines] == [0] * 6 + [1] * 14
  assert "loss" in lines[5]
  assert "loss" not in lines[6]  # of no example
  # What the evaluation says is of the average, and `jbin eval` says the same.
  assert (
    evaluation.evaluate(config, tmp_path / "whole")
    == _lines(tmp_path / "whole", "test")[-1]
  )


def test_the_run_ends_when_no_more_may_be_left_out(
  tmp_path, tiny_config, spoiled
):
  spoiled(6, 7, 9)
  config = tiny_config(log_every=10, checkpoint_every=0, guard={"skip": 2})
  with pytest.raises(FloatingPointError) as caught:
    loop.run(config, tmp_path)
  said = str(caught.value)
  assert said.startswith("step 9 cannot be taken after 2 others that were left")
  assert "input 'image'" in said
  assert "the checkpoint of step 8 is good; look at that example" in said
  assert (tmp_path / "checkpoints" / "8").is_dir()
  with pytest.raises(
    FloatingPointError, match="step 9 cannot be taken after 2"
  ):
    loop.run(config, tmp_path)  # goes on from there, and comes to the same


def test_whoever_starts_from_a_run_takes_the_average(tmp_path, tiny_config):
  config = tiny_config(steps=6, ema=0.9)
  loop.run(config, tmp_path)
  made = program.of(config)
  info, _, (params, _) = restore.restore_model(
    made.make, tmp_path, sharding.of(config.mesh)
  )
  learned, _, _ = start.of_run(tmp_path)
  np.testing.assert_array_equal(
    learned["head/kernel"], params["head"]["kernel"][...]
  )
  assert "ema" in info["arrays"]
