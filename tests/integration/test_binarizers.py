"""The experiment with all binarizers: commands, sweep, table, a tiny run."""

import json
import os
import subprocess
import sys

import pytest

from jbin import methods
from jbin.cli import _flags
from jbin.train import build

NAME = "experiments/binarizers_cifar10"
# Takes the place of jbin: notes its arguments, fails at the run FAIL_AT names.
STAND_IN = """
import os, pathlib, sys
flags = dict(word.split("=", 1) for word in sys.argv[2:])
workdir = pathlib.Path(flags["--workdir"])
with open(os.environ["LOG"], "a") as log:
  print(workdir.name, len(os.sched_getaffinity(0)), file=log)
if workdir.name == os.environ.get("FAIL_AT"):
  sys.exit("it failed")
(workdir / "report").mkdir(parents=True)
(workdir / "report" / "cost.json").write_text("{}")
"""


def _sweep(root, *arguments, path=None, **environment):
  return subprocess.run(
    [sys.executable, f"{root}/{NAME}/sweep.py", *arguments],
    cwd=root,
    env={
      **os.environ,
      "PYTHONPATH": f"{path or root}",
      # Else the current folder, which has jbin, would come first.
      "PYTHONSAFEPATH": "1" if path else "",
      **environment,
    },
    capture_output=True,
    text=True,
    timeout=500,
  )


def test_it_prints_every_method_seed_by_seed(root):
  lines = _sweep(root, "--root=/r", "--", "--config.steps=5").stdout.split("\n")
  names = ["float", *methods.REGISTRY]
  assert lines == [
    *(
      f"jbin train --config={NAME}/config.py:{name} --config.seed={seed}"
      f" --workdir=/r/{name}-{seed} --config.steps=5"
      for seed in (0, 1, 2)
      for name in names
    ),
    "",
  ]


@pytest.mark.parametrize("name", ["float", *methods.REGISTRY])
def test_the_config_makes_a_model(root, name):
  """All but the ends quantized, and an optimizer that finds its latents."""
  _, _, config = _flags.parse(
    "train", [f"--config={root}/{NAME}/config.py:{name}"], {}, config=True
  )
  build.check(config)
  model, shape = build.abstract_model(config)
  assert shape == (16, 16, 3)
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


@pytest.fixture
def stand_in(tmp_path):
  (tmp_path / "jbin").mkdir()
  (tmp_path / "jbin" / "__init__.py").write_text("")
  (tmp_path / "jbin" / "__main__.py").write_text(STAND_IN)
  return tmp_path


def test_it_skips_what_is_finished_and_goes_on_after_a_failure(root, stand_in):
  runs, log = stand_in / "runs", stand_in / "log"
  (runs / "bnn-0" / "report").mkdir(parents=True)
  (runs / "bnn-0" / "report" / "cost.json").write_text("{}")
  flags = ["--run", f"--root={runs}", "--methods=bnn,reste", "--seeds=0,1"]
  flags.append("--jobs=1")

  found = _sweep(root, *flags, path=stand_in, LOG=str(log), FAIL_AT="reste-0")
  assert found.returncode == 1, found.stderr
  assert [line.split()[0] for line in log.read_text().splitlines()] == [
    *("reste-0", "bnn-1", "reste-1")
  ]
  assert "reste-0; see" in found.stderr
  assert "it failed" in (runs / "reste-0" / "log.txt").read_text()
  assert json.loads((runs / "bnn-1" / "sweep.json").read_text())["jobs"] == 1

  found = _sweep(root, *flags, path=stand_in, LOG=str(log))
  assert found.returncode == 0, found.stderr
  assert log.read_text().splitlines()[-1].startswith("reste-0")
  assert "1 of 4 runs" in found.stderr


@pytest.mark.skipif(
  not hasattr(os, "sched_setaffinity") or (os.cpu_count() or 1) < 2,
  reason="needs two cores that a process can be kept on",
)
def test_runs_side_by_side_share_the_cores(root, stand_in):
  log = stand_in / "log"
  flags = ["--run", f"--root={stand_in}/runs", "--methods=bnn", "--seeds=0,1"]
  found = _sweep(root, *flags, "--jobs=2", path=stand_in, LOG=str(log))
  assert found.returncode == 0, found.stderr
  used = [int(line.split()[1]) for line in log.read_text().splitlines()]
  assert sum(used) == len(os.sched_getaffinity(0))


def _finish(workdir, accuracy, seconds):
  (workdir / "report").mkdir(parents=True)
  (workdir / "report" / "cost.json").write_text("{}")
  lines = [
    {"step": 1, "split": "train", "loss": 2.25},
    {"step": 2, "split": "train", "loss": 1.5},
    {"step": 2, "split": "test", "accuracy": accuracy},
  ]
  text = "".join(json.dumps(line) + "\n" for line in lines)
  (workdir / "metrics.jsonl").write_text(text)
  record = {"seconds": seconds, "jobs": 2}
  (workdir / "sweep.json").write_text(json.dumps(record))


def test_it_writes_the_table_between_the_marks(root, tmp_path):
  _finish(tmp_path / "reste-0", 0.45, 30.0)
  _finish(tmp_path / "reste-1", 0.47, 50.0)
  readme = tmp_path / "README.md"
  readme.write_text("a\n<!-- table -->\nold\n<!-- end of table -->\nb\n")
  flags = [f"--root={tmp_path}", f"--readme={readme}", "--table"]
  for _ in range(2):
    found = _sweep(root, *flags, "--methods=float,twn,reste")
    assert found.returncode == 0, found.stderr
  lines = readme.read_text().splitlines()
  assert lines[:2] + lines[-2:] == [
    *("a", "<!-- table -->", "<!-- end of table -->", "b")
  ]
  assert lines[4:-2] == [
    "| `float` | W32A32 | not run | – | – | – | – | – |",
    "| `twn` | W2A32 | not run | – | – | – | – | – |",
    "| `reste` | W1A1 | 46.00 ± 1.41 | 2 | 2.25 → 1.50 | 86.75 | 92.63 | – |",
    "",
    "2 runs; 40 seconds a run (median), 0.0 hours in all.",
  ]


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
  flags = [f"--root={tmp_path}", "--methods=reste", "--seeds=0", "--jobs=1"]
  found = _sweep(
    root,
    *flags,
    "--run",
    "--",
    "--config.steps=2",
    "--config.batch_size=8",
    "--config.data.train_split=train[:32]",
    "--config.data.eval_split=test[:100]",
    TFDS_DATA_DIR=str(folder),
  )
  assert found.returncode == 0, (tmp_path / "reste-0" / "log.txt").read_text()
  readme = tmp_path / "README.md"
  readme.write_text("<!-- table --><!-- end of table -->")
  _sweep(root, *flags, "--table", f"--readme={readme}")
  assert "| `reste` | W1A1 | " in readme.read_text()
  assert "not run" not in readme.read_text()
