"""The tiny config, by value and by path."""

import importlib.util
import pathlib

import pytest

from jbin.train import config as config_lib

TINY = pathlib.Path(__file__).with_name("tiny.py")


@pytest.fixture
def tiny_values():
  """The tiny config as a dict; change what a test is about."""
  spec = importlib.util.spec_from_file_location("tiny_config", TINY)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config().to_dict()


@pytest.fixture
def tiny_config(tiny_values):
  """`tiny_config(key=value, ...)`: the config with changes."""

  def make(**changes):
    for key, value in changes.items():
      group, _, inner = key.partition("__")
      if inner:
        tiny_values[group][inner] = value
      else:
        tiny_values[key] = value
    return config_lib.from_mapping(tiny_values)

  return make
