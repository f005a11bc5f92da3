"""The experiments that a CPU runs: rows, README, a tiny run each."""

import os
import re
import shlex
import subprocess
import sys

import pytest
from flax import nnx

from jbin import nn
from jbin.cli import _flags
from jbin.train import build

# Experiment -> its float rows; what the tiny run is of, and its arguments.
FLOAT = {
  "bivit_cifar10": {"float"},
  "bibert_sst": {"float"},
  "bipft": {"pretrain_float", "finetune_float"},
  "ecoformer_cifar10": {"sr", "full", "full_more"},
  "bimamba_text": {"mamba", "llama"},
}
TINY = {
  "bivit_cifar10": ("bivit", "test[:100]"),
  "bibert_sst": ("bibert", "validation[:50]"),
  "bipft": ("finetune_b", ""),
  "ecoformer_cifar10": ("hash", "test[:100]"),
  "bimamba_text": ("bimamba", ""),
}
NAMES = [*FLOAT]


def _sweep(root, name, *arguments, **environment):
  return subprocess.run(
    [sys.executable, f"experiments/{name}/sweep.py", *arguments],
    cwd=root,
    env={**os.environ, "PYTHONPATH": str(root), **environment},
    capture_output=True,
    text=True,
    timeout=500,
  )


@pytest.fixture(scope="module")
def commands(root):
  """`commands(experiment)`: row -> the arguments of its run at seed 7."""
  kept = {}

  def of(name):
    if name not in kept:
      found = _sweep(root, name, "--seeds=7", "--root=/r")
      assert found.returncode == 0, found.stderr
      lines = [shlex.split(line)[2:] for line in found.stdout.splitlines()]
      kept[name] = {
        arguments[-1]
        .removeprefix("--workdir=/r/")
        .removesuffix("-7"): arguments
        for arguments in lines
      }
    return kept[name]

  return of


@pytest.mark.parametrize("name", NAMES)
def test_every_row_makes_a_run(root, commands, monkeypatch, name):
  """Configs that jbin reads, low-bit but for the float rows."""
  monkeypatch.chdir(root)
  for row, arguments in commands(name).items():
    _, _, config = _flags.parse(
      "train", arguments, {"workdir": ""}, needs=["workdir"], config=True
    )
    assert config.seed == 7
    build.check(config)
    model, _ = build.abstract_model(config)
    assert callable(build.optimizer(config.optimizer, model).tx.update)
    low = any(
      isinstance(part, nn.KernelHash)
      or getattr(part, "kernel_quantizer", None) is not None
      for _, part in nnx.iter_modules(model)
    )
    assert low == (row not in FLOAT[name]), row


@pytest.mark.parametrize("name", NAMES)
def test_what_a_row_starts_from_is_run_before_it(commands, name):
  seen = set()
  for row, arguments in commands(name).items():
    text = " ".join(arguments[:-1])
    assert {*re.findall(r"workdir=/r/(\w+)-7", text)} <= seen, row
    seen.add(row)


@pytest.mark.parametrize("name", NAMES)
def test_the_readme_has_a_line_for_every_row(root, commands, name):
  text = (root / "experiments" / name / "README.md").read_text("utf-8")
  inside = text.split("<!-- table -->")[1].split("<!-- end of table -->")[0]
  assert re.findall(r"^\| `(\w+)` \|", inside, re.M) == [*_listed(root, name)]


def _listed(root, name):
  """The rows in the order of the table, which that of the runs may not be."""
  found = _sweep(root, name, "--rows=?")
  return found.stderr.split("there are ")[1].strip().split(", ")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_tiny_run(root, shared, tmp_path, name):
  """Two steps of a row and of all that it comes after, then the table."""
  tfds, text = shared / "data" / "tfds", shared / "data" / "text"
  if not tfds.is_dir() or not text.is_dir():
    pytest.skip(f"no data at {shared / 'data'}; set JBIN_SHARED")
  row, split = TINY[name]
  flags = [f"--root={tmp_path}", f"--rows={row}", "--seeds=0", "--jobs=1"]
  if name in ("bipft", "bimamba_text"):
    flags.append(f"--text={text}")
  more = ["--config.steps=2", "--config.batch_size=8"]
  if split:
    more.append(f"--config.data.eval_split={split}")
  found = _sweep(
    root, name, *flags, "--run", "--", *more, TFDS_DATA_DIR=str(tfds)
  )
  logs = [path.read_text() for path in tmp_path.glob("*/log.txt")]
  assert found.returncode == 0, logs
  readme = tmp_path / "README.md"
  readme.write_text("<!-- table --><!-- end of table -->")
  flags += ["--table", f"--readme={readme}"]
  found = _sweep(root, name, *flags)
  assert "steps: 2 -> " in found.stderr  # this is no run of the table
  found = _sweep(root, name, *flags, "--", *more)
  assert found.returncode == 0, found.stderr
  (line,) = re.findall(rf"^\| `{row}` \|.*", readme.read_text(), re.M)
  assert "not run" not in line


@pytest.mark.slow
def test_samples_of_a_tiny_run(root, tmp_path):
  """On the text that needs no folder."""
  name, flags = "bimamba_text", [f"--root={tmp_path}", "--seeds=0"]
  more = ["--config.steps=2", "--config.length=32"]
  found = _sweep(root, name, *flags, "--rows=mamba", "--run", "--", *more)
  assert found.returncode == 0, found.stderr
  readme = tmp_path / "README.md"
  readme.write_text("a <!-- samples --> b <!-- end of samples --> c")
  found = subprocess.run(
    [
      sys.executable,
      f"experiments/{name}/samples.py",
      flags[0],
      f"--readme={readme}",
      "--tokens=20",
      "--prompt=A_b",
    ],
    cwd=root,
    capture_output=True,
    text=True,
  )
  assert found.returncode == 0, found.stderr
  lines = readme.read_text("utf-8").split("\n")
  assert lines[0] == "a <!-- samples -->"
  assert lines[1].startswith("* `mamba`: A\\_b")
  assert lines[2] == "<!-- end of samples --> c"
