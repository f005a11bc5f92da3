"""The experiment with all binarizers: its rows, its table, a tiny run."""

import json
import os
import re
import subprocess
import sys

import pytest

from jbin import methods
from jbin.cli import _flags
from jbin.train import build

NAME = "experiments/binarizers_cifar10"


def _sweep(root, *arguments, **environment):
  return subprocess.run(
    [sys.executable, f"{root}/{NAME}/sweep.py", *arguments],
    cwd=root,
    env={**os.environ, "PYTHONPATH": str(root), **environment},
    capture_output=True,
    text=True,
    timeout=500,
  )


def test_it_prints_every_method_seed_by_seed(root):
  lines = _sweep(root, "--root=/r").stdout.splitlines()
  names = ["float", *methods.REGISTRY]
  assert lines == [
    *(
      f"jbin train --config={NAME}/config.py:{name} --config.seed={seed}"
      f" --workdir=/r/{name}-{seed}"
      for seed in (0, 1, 2)
      for name in names
    )
  ]


@pytest.mark.parametrize("name", ["float", *methods.REGISTRY])
def test_the_config_makes_a_model(root, name):
  """All but the ends quantized, and an optimizer that finds its latents."""
  _, _, config = _flags.parse(
    "train", [f"--config={root}/{NAME}/config.py:{name}"], {}, config=True
  )
  build.check(config)
  model, (image,) = build.abstract_model(config)
  assert image.shape == (1, 16, 16, 3)
  assert callable(build.optimizer(config.optimizer, model).tx.update)
  kernels = {path: layer.kernel_quantizer for path, layer in _layers(model)}
  assert len(kernels) == 1 + 6 + 1
  for path, quantizer in kernels.items():
    ends = path in (("stem", "conv"), ("head",))
    assert (quantizer is None) == (ends or name == "float")


def _layers(model):
  from flax import nnx

  from jbin import nn

  return [
    (path, part)
    for path, part in nnx.iter_modules(model)
    if isinstance(part, nn.Conv | nn.Linear)
  ]


def test_the_table_has_the_papers_figures_beside_ours(root, tmp_path):
  runs = [(0, 0.45, 30.0), (1, 0.47, 50.0)]
  records = [
    {
      "row": "reste",
      "seed": seed,
      "accuracy": accuracy,
      "first_loss": 2.25,
      "last_loss": 1.5,
      "seconds": seconds,
      "jobs": 2,
    }
    for seed, accuracy, seconds in runs
  ]
  lines = "".join(json.dumps(record) + "\n" for record in records)
  (tmp_path / "results.jsonl").write_text(lines)
  readme = tmp_path / "README.md"
  readme.write_text("<!-- table --><!-- end of table -->")
  flags = [f"--root={tmp_path}", f"--readme={readme}", "--table"]
  found = _sweep(root, *flags)
  assert found.returncode == 0, found.stderr
  lines = readme.read_text().splitlines()[3:-3]
  assert len(lines) == 1 + len(methods.REGISTRY)
  assert {
    "| `float` | W32A32 | not run | – | – | – | – | – |",
    "| `reste` | W1A1 | 46.00 ± 1.41 | 2 | 2.25 → 1.50 | 86.75 | 92.63 | – |",
    "| `twn` | W2A32 | not run | – | – | – | – | – |",
  } <= {*lines}


def test_the_readme_has_the_marks_and_a_row_for_every_method(root):
  text = (root / NAME / "README.md").read_text()
  inside = text.split("<!-- table -->")[1].split("<!-- end of table -->")[0]
  for name in ["float", *methods.REGISTRY]:
    assert f"| `{name}` |" in inside


@pytest.mark.slow
def test_a_tiny_run(root, shared, tmp_path):
  """Two steps on real images, then the table."""
  folder = shared / "data" / "tfds"
  if not (folder / "cifar10").is_dir():
    pytest.skip(f"no CIFAR-10 at {folder}; set JBIN_SHARED")
  flags = [f"--root={tmp_path}", "--rows=reste", "--seeds=0", "--jobs=1"]
  more = [
    "--",
    "--config.steps=2",
    "--config.batch_size=8",
    "--config.data.train_split=train[:32]",
    "--config.data.eval_split=test[:100]",
  ]
  found = _sweep(root, *flags, "--run", *more, TFDS_DATA_DIR=str(folder))
  assert found.returncode == 0, (tmp_path / "reste-0" / "log.txt").read_text()
  readme = tmp_path / "README.md"
  readme.write_text("<!-- table --><!-- end of table -->")
  _sweep(root, *flags, "--table", f"--readme={readme}", *more)
  assert re.search(r"\| `reste` \| W1A1 \| \d", readme.read_text())
