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


def _values():
  spec = importlib.util.spec_from_file_location("tiny_config", TINY)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config().to_dict()


def _made(values, changes):
  for key, value in changes.items():
    group, _, inner = key.partition("__")
    if inner:
      values[group][inner] = value
    else:
      values[key] = value
  return config_lib.from_mapping(values)


@pytest.fixture
def tiny_values():
  """The tiny config as a dict; change what a test is about."""
  return _values()


@pytest.fixture
def tiny_config(tiny_values):
  """`tiny_config(key=value, ...)`: with this and all earlier changes."""
  return lambda **changes: _made(tiny_values, changes)


@pytest.fixture(scope="session")
def changed_config():
  """`changed_config(key=value, ...)`: with these changes alone."""
  return lambda **changes: _made(_values(), changes)


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
