"""Names become objects, and what does not fit is named."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jbin import errors, registry, schedules
from jbin.train import build, config as config_lib, counting, making, program
from tests import programs

TOYS = registry.Registry("toy")


@TOYS.register
def block(
  width: int,
  height=1.0,
  name: str = "",
  open: bool = True,
  sizes: Sequence[int] = (),
):
  """A toy."""
  return width, height, name, open, sizes


@pytest.mark.parametrize(
  ("name", "kwargs", "message"),
  [
    ("blok", {}, "unknown toy 'blok'; did you mean block?"),
    (
      "block",
      {"widht": 1},
      "toy 'block' takes no argument 'widht'; did you mean width?",
    ),
    ("block", {"x": 1}, "it takes width, height, name, open, sizes"),
    ("block", {}, "toy 'block' needs the argument 'width'"),
    ("block", {"width": "a"}, "'width' of toy 'block' is 'a'; it must be of"),
    ("block", {"width": True}, "must be of type int"),
    ("block", {"width": 1, "open": 1}, "must be of type bool"),
    ("block", {"width": 1, "sizes": 3}, "must be of type Sequence[int]"),
    ("block", {"width": 1, "sizes": ("a",)}, "must be of type Sequence[int]"),
  ],
)
def test_wrong_arguments(name, kwargs, message):
  with pytest.raises(errors.UserError) as caught:
    build.call(TOYS, config_lib.Named(name, kwargs))
  assert message in str(caught.value)


def test_offers_only_what_is_taken_and_unset():
  named = config_lib.Named("block", {"width": 2})
  assert build.call(TOYS, named, width=9, height=3, depth=5)[:2] == (2, 3)


def test_a_group_named_as_a_schedule_is_one():
  group = {"name": "linear", "start": 0.0, "end": 1.0}
  named = config_lib.Named("block", {"width": 2, "height": group})
  assert build.call(TOYS, named)[1] == schedules.linear(0.0, 1.0)
  bad = config_lib.Named("block", {"width": 2, "height": {**group, "ned": 1}})
  with pytest.raises(errors.UserError, match="schedule 'linear' takes no"):
    build.call(TOYS, bad)


def test_model_fits_its_data(tiny_config):
  source = build.dataset(tiny_config())
  make = making.maker(tiny_config().model, made_for=source)
  assert make()(jnp.zeros((2, 8, 8, 1))).shape == (2, 10)
  named = config_lib.Named("tiny", {"num_classes": 7})
  with pytest.raises(errors.UserError, match=r"config\.model\.num_classes=10"):
    making.maker(named, made_for=source)


def test_model_depends_on_the_seed_alone(tiny_config):
  models = [
    making.maker(tiny_config().model, seed=seed)() for seed in (3, 3, 4)
  ]
  a, b, c = (np.asarray(model.conv.kernel[...]) for model in models)
  assert (a == b).all()
  assert (a != c).any()


def test_one_program_makes_the_model_of_every_seed(tiny_config):
  """Of a traced key, bit for bit as with the seed as a constant."""
  config = tiny_config()
  drawn = {"method": "recu", "ends": "same"}  # draws its scales
  rules = config_lib.Named("method", drawn)
  given = {"rules": rules, "made_for": build.dataset(config)}

  def maker(seed):
    return making.maker(config.model, seed=seed, **given)

  run = programs.Jit(lambda key: nnx.state(maker(0)(key)))
  for seed in (0, 3, 2**40 + 1):
    make = maker(seed)
    fixed = jax.jit(lambda make=make: nnx.state(make()))()
    traced = run(jax.random.key(seed))
    for mine, want in zip(
      jax.tree.leaves(traced), jax.tree.leaves(fixed), strict=True
    ):
      if jax.dtypes.issubdtype(want.dtype, jax.dtypes.prng_key):
        mine, want = map(jax.random.key_data, (mine, want))
      np.testing.assert_array_equal(mine, want)
  assert run.traces == 1


def test_image_size_must_be_what_the_data_gives(tiny_config):
  with pytest.raises(errors.UserError, match="set image_size=8, or 0"):
    build.dataset(tiny_config(image_size=9))


def test_cost_report_counts_the_model(tiny_config):
  found = counting.cost_report(tiny_config()).to_json()
  assert found["model"] == "tiny"
  # 4 x 4 outputs of 8 features from 3 x 3 x 1, then 128 x 10.
  assert sum(layer["macs"] for layer in found["layers"]) == (
    16 * 8 * 9 + 128 * 10
  )


def test_cost_report_reads_no_data_when_the_size_is_set(tiny_config):
  """But for the classes, if the model leaves these to it."""
  given = {"data": {"name": "nowhere"}, "image_size": 8}
  with pytest.raises(errors.UserError, match="nowhere"):
    counting.cost_report(tiny_config(**given))
  config = tiny_config(model={"name": "tiny", "num_classes": 10}, **given)
  assert counting.cost_report(config).to_json()["model"] == "tiny"


def test_a_step_costs_what_it_costs_before_its_teacher_is_trained(tiny_config):
  task = {"name": "distillation", "teacher_workdir": "/nowhere"}
  made = program.of(tiny_config(task=task))
  assert made.notes == (
    "the teacher's run /nowhere is not here: counted as tiny, float",
  )
  taught = made.report("tiny").macs
  alone = program.of(tiny_config(task={"name": "classification"}))
  assert not alone.notes
  forward = sum(counting.cost_report(tiny_config()).macs.values())
  more = sum(taught.values()) - sum(alone.report("tiny").macs.values())
  assert more == forward * tiny_config().batch_size
