"""`import jbin` is light: what is heavy is imported where it is used."""

import subprocess
import sys

import pytest

HEAVY = (
  "IPython",
  "grain",
  "huggingface_hub",
  "jinja2",
  "matplotlib",
  "orbax",
  "pandas",
  "safetensors",
  "sklearn",
  "tensorboardX",
  "tensorflow",
  "tensorflow_datasets",
  "tokenizers",
  "torch",
  "tqdm",
  "transformers",
)


def _loaded(statement: str) -> set[str]:
  """The top-level modules of a fresh interpreter after `statement`."""
  code = f"import sys\n{statement}\nprint(*sys.modules)"
  run = subprocess.run(
    [sys.executable, "-c", code],
    capture_output=True,
    text=True,
    check=True,
    timeout=120,
  )
  return {name.split(".")[0] for name in run.stdout.split()}


@pytest.fixture(scope="module")
def ground():
  """What jax, flax and optax load by themselves is not ours to answer for."""
  return _loaded("import jax, optax\nfrom flax import nnx")


@pytest.mark.parametrize(
  "module", ["jbin", "jbin.pretrained", "jbin.report", "jbin.__main__"]
)
def test_import_loads_nothing_heavy(module, ground):
  added = _loaded(f"import {module}") - ground
  assert not added.intersection(HEAVY)


def test_import_loads_no_framework_at_all():
  loaded = _loaded("import jbin")
  heavy = {"matplotlib", "orbax", "sklearn", "tensorflow", "torch"}
  assert not loaded & heavy
