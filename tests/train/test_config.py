"""The border: every wrong config is one clear message."""

import dataclasses
import json

import ml_collections
import pytest

from jbin import errors
from jbin.train import config as config_lib


def _set(values, path, value):
  *groups, last = path.split(".")
  for group in groups:
    values = values[group]
  if value is KeyError:
    del values[last]
  else:
    values[last] = value


WRONG = [
  ("stepz", 1, "unknown config key 'stepz'; did you mean steps?"),
  ("colour", 1, "unknown config key 'colour'; known: steps, batch_size"),
  ("steps", KeyError, "no key 'steps', which it needs"),
  ("steps", "many", "'steps' is 'many'; it must be a whole number"),
  ("steps", 1.5, "'steps' is 1.5; it must be a whole number"),
  ("steps", True, "'steps' is True; it must be a whole number"),
  ("steps", 0, "'steps' is 0; it must be 1 or more"),
  ("batch_size", -4, "'batch_size' is -4; it must be 1 or more"),
  ("seed", -1, "'seed' is -1; it must be 0 or more"),
  ("dtype", "float16", "'dtype' is 'float16'; it must be 'float32' or"),
  ("tensorboard", "yes", "'tensorboard' is 'yes'; it must be True or False"),
  ("model", 3, "model is 3; it must be a group of keys (name)"),
  ("model.name", KeyError, "no key 'model.name', which it needs"),
  ("model.name", 7, "'model.name' is 7; it must be a string"),
  ("mesh.fsdpp", 2, "unknown config key 'mesh.fsdpp'; did you mean fsdp?"),
  ("mesh.data", 0, "'mesh.data' is 0; it must be 1 or more devices, or -1"),
  ("optimizer.weight_decay", "big", "'optimizer.weight_decay' is 'big'"),
  ("optimizer.weight_decay", -1.0, "'optimizer.weight_decay' is -1.0"),
  ("optimizer.weight_decay_mode", "l3", "it must be 'l2' or 'decoupled'"),
  ("optimizer.learning_rate", True, "'optimizer.learning_rate' is True"),
]


@pytest.mark.parametrize(("path", "value", "message"), WRONG)
def test_wrong_config_is_one_clear_line(tiny_values, path, value, message):
  _set(tiny_values, path, value)
  with pytest.raises(errors.UserError) as caught:
    config_lib.from_mapping(tiny_values)
  assert message in str(caught.value)
  assert "\n" not in str(caught.value)


def test_config_dict_and_dict_are_the_same(tiny_values):
  made = config_lib.from_mapping(ml_collections.ConfigDict(tiny_values))
  assert made == config_lib.from_mapping(tiny_values)


def test_config_is_typed_and_frozen(tiny_values):
  made = config_lib.from_mapping(tiny_values)
  assert made.model == config_lib.Named("tiny", {"width": 8, "dropout": 0.25})
  assert made.optimizer.learning_rate.name == "cosine"
  with pytest.raises(dataclasses.FrozenInstanceError):
    made.steps = 3


def test_a_name_alone_is_a_group(tiny_values):
  tiny_values["task"] = "classification"
  tiny_values["optimizer"]["learning_rate"] = 1
  made = config_lib.from_mapping(tiny_values)
  assert made.task == config_lib.Named("classification")
  assert made.optimizer.learning_rate == 1.0


def test_json_and_back(tiny_values):
  tiny_values["model"]["stages"] = (1, 2)
  made = config_lib.from_mapping(tiny_values)
  text = json.dumps(config_lib.to_mapping(made))
  assert config_lib.from_mapping(json.loads(text)) == made


def test_differences_name_what_may_not_change(tiny_values):
  made = config_lib.from_mapping(tiny_values)
  other = json.loads(json.dumps(config_lib.to_mapping(made)))
  assert config_lib.differences(made, other) == []
  other["keep"], other["mesh"]["data"], other["steps"] = 9, 4, 99
  assert config_lib.differences(made, other) == []
  other["model"]["width"] = 16
  assert config_lib.differences(made, other) == ["model.width: 16 -> 8"]
  del other["length"]  # as an older version wrote it
  assert config_lib.differences(made, other) == ["model.width: 16 -> 8"]
  other["colour"] = 1
  assert "colour: 1 -> 'unset'" in config_lib.differences(made, other)
