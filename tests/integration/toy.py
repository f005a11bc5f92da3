"""A toy experiment, and a stand-in for jbin that runs it."""

import json
import os
import subprocess
import sys

import pytest

# Takes the place of jbin: notes its arguments and cores, then does what the
# environment says of the run of that name.
STAND_IN = """
import json, os, pathlib, signal, sys, time
given = dict(w.split("=", 1) for w in sys.argv[2:])
workdir = pathlib.Path(given["--workdir"])
name, here = workdir.name, pathlib.Path.cwd()
with open("log", "a") as log:
  print(name, len(os.sched_getaffinity(0)), *sys.argv[1:], file=log)
file, _, argument = given["--config"].partition(":")
space = {}
exec(pathlib.Path(file).read_text(), space)
config = space["get_config"](argument)
for key, value in given.items():
  if key.startswith("--config."):
    _, *groups, key = key.split(".")
    group = config
    for each in groups:
      group = group.setdefault(each, {})
    group[key] = int(value) if value.isdecimal() else value
(workdir / "config.json").write_text(json.dumps(config))
def saved(*_):
  (workdir / "saved").touch()
  sys.exit(0)
if name == os.environ.get("WAITS"):
  signal.signal(signal.SIGTERM, saved)
  (here / "waiting").write_text(str(os.getpid()))
  time.sleep(60)
if name == os.environ.get("FAILS"):
  sys.exit("it failed")
until = time.time() + 20
while name == os.environ.get("MEETS") and not (here / "met").exists():
  if time.time() > until:
    sys.exit("nobody came")
  time.sleep(0.01)
if os.environ.get("MEETS"):
  (here / "met").touch()
(workdir / "report").mkdir(exist_ok=True)
(workdir / "report" / "index.html").touch()
"""
# All that a config needs, and what it is of.
CONFIG = """
def get_config(argument=""):
  return {
    "steps": 9,
    "batch_size": 1,
    "model": {"name": "net", "of": argument},
    "data": {"name": "images"},
    "task": {"name": "naming"},
    "optimizer": {"name": "adam", "learning_rate": 0.1},
  }
"""
# `far` comes after `near`, which comes after `float`; `poke` after one teacher.
SWEEP = """
import sys
sys.path.append(ROOT)
from experiments.launcher import Experiment, Run, main
from experiments.results import percent

ROWS = {
  "far": Run("c.py:far", {"start.workdir": "{after}", "model.x": 3}, "near"),
  "float": Run("c.py"),
  "near": Run("c.py:near", after="float"),
  "teacher": Run("t.py", seeded=False),
  "poke": Run("p.py", {"task.teacher_workdir": "{after}"}, after="teacher"),
}

def cells(name, records):
  if not records:
    return ["not run", ""]
  hours = sum(record.get("seconds", 0) for record in records) / 3600
  return [percent(records, "accuracy"), f"{hours:.1f}"]

main(Experiment("toy", lambda: ROWS, ("top-1", "hours"), cells))
"""


@pytest.fixture
def toy(root, tmp_path):
  (tmp_path / "jbin").mkdir()
  (tmp_path / "jbin" / "__init__.py").write_text("")
  (tmp_path / "jbin" / "__main__.py").write_text(STAND_IN)
  for name in "ctp":
    (tmp_path / f"{name}.py").write_text(CONFIG)
  (tmp_path / "toy").mkdir()
  (tmp_path / "toy" / "sweep.py").write_text(f"ROOT = {str(root)!r}{SWEEP}")
  return tmp_path


def sweep(toy, *arguments, **variables):
  return subprocess.run(
    [sys.executable, "toy/sweep.py", *arguments],
    cwd=toy,
    env=surroundings(**variables),
    capture_output=True,
    text=True,
    timeout=100,
  )


def surroundings(**more):
  kept = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
  return {**kept, **more}


def finish(workdir, accuracy=0.5, seconds=None, timing=(), **config):
  """What a run of row `float` or `teacher` leaves, or one of that config."""
  (workdir / "report").mkdir(parents=True)
  (workdir / "report" / "index.html").touch()
  space = {}
  exec(CONFIG, space)
  _, _, seed = workdir.name.partition("-")
  made = {**space["get_config"](), "seed": int(seed or 0), **config}
  _write(workdir / "config.json", [made])
  records = [
    {"step": 1, "split": "train", "loss": 2.25},
    {"step": 2, "split": "test", "accuracy": 0.0},
    {"step": 4, "split": "train", "loss": 1.5},
    {"step": 4, "split": "test", "accuracy": accuracy},
  ]
  _write(workdir / "metrics.jsonl", records)
  if seconds is not None:
    _write(workdir / "sweep.json", [{"seconds": seconds, "jobs": 2}])
  if timing:
    _write(workdir / "timing.jsonl", [{"seconds": each} for each in timing])


def _write(path, records):
  path.write_text("".join(json.dumps(record) + "\n" for record in records))
