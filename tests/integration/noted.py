"""The tiny config on digits that note which rows each process reads."""

import dataclasses
import json
import os
from collections.abc import Callable

from jbin import data
from tests.train import tiny


@dataclasses.dataclass(frozen=True)
class _Noting:
  """Reads, and writes a line with the rows into $NOTES.PID."""

  read: Callable

  def __call__(self, indices, draws):
    with open(f"{os.environ['NOTES']}.{os.getpid()}", "a") as file:
      file.write(json.dumps(indices.tolist()) + "\n")
    return self.read(indices, draws)


def noted_digits():
  """Digits with augmentation."""
  source = data.REGISTRY.get("digits")(augment=True)
  return dataclasses.replace(source, read_train=_Noting(source.read_train))


if "noted_digits" not in data.REGISTRY:
  data.REGISTRY.register(noted_digits)


def get_config():
  config = tiny.get_config()
  config.data = {"name": "noted_digits"}
  return config
