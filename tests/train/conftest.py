"""The tiny config, by value and by path."""

import contextlib
import importlib.util
import os
import pathlib
import signal

import pytest

from jbin.data import _pipeline
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


@pytest.fixture
def stop_after(monkeypatch):
  """`with stop_after(n)`: SIGTERM arrives while the n-th batch is read."""

  @contextlib.contextmanager
  def stopping(steps):
    read = _pipeline.StepIterator.__next__
    seen = []

    def read_and_stop(self):
      seen.append(1)
      if len(seen) == steps:
        os.kill(os.getpid(), signal.SIGTERM)
      return read(self)

    with monkeypatch.context() as patch:
      patch.setattr(_pipeline.StepIterator, "__next__", read_and_stop)
      yield

  return stopping
