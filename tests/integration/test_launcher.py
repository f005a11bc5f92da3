"""The launcher of all experiments, with a stand-in for jbin."""

import json
import os
import re
import signal
import stat
import subprocess
import sys

import pytest

# Takes the place of jbin: notes its arguments and cores, then does what the
# environment says of the run of that name.
STAND_IN = """
import os, pathlib, signal, sys, time
workdir = pathlib.Path(dict(w.split("=", 1) for w in sys.argv[2:])["--workdir"])
name, here = workdir.name, pathlib.Path.cwd()
with open("log", "a") as log:
  print(name, len(os.sched_getaffinity(0)), *sys.argv[1:], file=log)
def saved(*_):
  (workdir / "saved").touch()
  sys.exit(0)
if name == os.environ.get("WAITS"):
  signal.signal(signal.SIGTERM, saved)
  (here / "waiting").touch()
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
(workdir / "report").mkdir(parents=True)
(workdir / "report" / "cost.json").write_text("{}")
"""
# `far` comes after `near`, which comes after `float`; `poke` after one teacher.
SWEEP = """
import sys
sys.path.append(ROOT)
from experiments.launcher import Experiment, Run, main
from experiments.results import percent

ROWS = {
  "far": Run("c.py:far", {"start.workdir": "{after}", "x": 3}, after="near"),
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
  (tmp_path / "toy").mkdir()
  (tmp_path / "toy" / "sweep.py").write_text(f"ROOT = {str(root)!r}{SWEEP}")
  return tmp_path


def _sweep(toy, *arguments, **environment):
  return subprocess.run(
    [sys.executable, "toy/sweep.py", *arguments],
    cwd=toy,
    env=_environment(**environment),
    capture_output=True,
    text=True,
    timeout=100,
  )


def _environment(**more):
  kept = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
  return {**kept, **more}


def _ran(toy):
  """The names of the runs that began since it was asked last."""
  log = toy / "log"
  lines = log.read_text().splitlines() if log.exists() else []
  log.unlink(missing_ok=True)
  return [line.split()[0] for line in lines]


def _finish(workdir, accuracy=0.5, seconds=None, timing=()):
  (workdir / "report").mkdir(parents=True)
  (workdir / "report" / "cost.json").write_text("{}")
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


# --- What there is to run -----------------------------------------------------


def test_it_prints_all_rows_at_one_seed_then_at_the_next(toy):
  found = _sweep(toy, "--seeds=0,7", "--root=/r", "--", "--config.steps=5")
  assert found.returncode == 0, found.stderr
  rows = {
    "float": "c.py --config.seed=S",
    "near": "c.py:near --config.seed=S",
    "far": "c.py:far --config.seed=S --config.start.workdir=/r/near-S"
    " --config.x=3",
    "teacher": "t.py",
    "poke": "p.py --config.seed=S --config.task.teacher_workdir=/r/teacher",
  }
  lines = [
    f"jbin train --config={text} --workdir=/r/{name}"
    f"{'' if name == 'teacher' else '-S'} --config.steps=5"
    for name, text in rows.items()
  ]
  first = [line.replace("-S", "-0").replace("=S", "=0") for line in lines]
  del lines[3]  # the teacher is one for both
  second = [line.replace("-S", "-7").replace("=S", "=7") for line in lines]
  assert found.stdout.splitlines() == first + second


def test_rows_bring_those_that_they_come_after(toy):
  lines = _sweep(toy, "--rows=far", "--seeds=1").stdout.splitlines()
  workdirs = [line.split("--workdir=")[1] for line in lines]
  assert workdirs == ["runs/toy/float-1", "runs/toy/near-1", "runs/toy/far-1"]


def test_it_says_what_is_wrong(toy):
  found = _sweep(toy, "--rows=fra")
  assert found.returncode == 1
  assert "no row 'fra'; there are far, float, near, teacher" in found.stderr
  found = _sweep(toy, "--run", "--launcher=./absent --fast")
  assert found.returncode == 1
  assert "'./absent --fast' is no program" in found.stderr
  os.rename(toy / "toy", toy / "moved")
  found = subprocess.run(
    [sys.executable, "moved/sweep.py"],
    cwd=toy,
    env=_environment(),
    capture_output=True,
    text=True,
  )
  assert found.returncode == 1
  assert "no toy here; run it from the repository's root" in found.stderr


# --- Running ------------------------------------------------------------------


def test_it_skips_what_is_finished_and_goes_on_after_a_failure(toy):
  runs = toy / "runs" / "toy"
  _finish(runs / "float-0")
  flags = ["--run", "--jobs=1", "--seeds=0,1"]
  found = _sweep(toy, *flags, FAILS="near-0")
  assert found.returncode == 1, found.stderr
  assert "8 of 9 runs to do" in found.stderr
  # far-0 comes after near-0; the others do not.
  assert _ran(toy) == [
    *("near-0", "teacher", "poke-0"),
    *("float-1", "near-1", "far-1", "poke-1"),
  ]
  assert (
    "not finished: runs/toy/near-0; see runs/toy/near-0/log" in found.stderr
  )
  assert (
    "not finished: runs/toy/far-0: runs/toy/near-0 is missing" in found.stderr
  )
  assert "it failed" in (runs / "near-0" / "log.txt").read_text()
  once = json.loads((runs / "near-0" / "sweep.json").read_text())["seconds"]

  found = _sweep(toy, *flags)
  assert found.returncode == 0, found.stderr
  assert _ran(toy) == ["near-0", "far-0"]
  note = json.loads((runs / "near-0" / "sweep.json").read_text())
  assert note["jobs"] == 1
  assert note["seconds"] > once > 0
  # Both parts' output is kept.
  assert "it failed" in (runs / "near-0" / "log.txt").read_text()

  assert _sweep(toy, *flags).returncode == 0
  assert _ran(toy) == []


def test_a_failure_stops_all_that_comes_after_it(toy):
  flags = ["--run", "--jobs=2", "--seeds=0", "--rows=far,poke"]
  found = _sweep(toy, *flags, FAILS="float-0")
  assert found.returncode == 1
  assert sorted(_ran(toy)) == ["float-0", "poke-0", "teacher"]
  assert len(re.findall("is missing", found.stderr)) == 2


def test_runs_go_side_by_side(toy):
  """The first one ends only when another, which waits for nothing, has run."""
  flags = ["--run", "--jobs=2", "--seeds=0", "--rows=far,teacher"]
  found = _sweep(toy, *flags, MEETS="float-0")
  assert found.returncode == 0, found.stderr
  ran = _ran(toy)
  assert sorted(ran[:2]) == ["float-0", "teacher"]
  assert ran[2:] == ["near-0", "far-0"]


@pytest.mark.skipif(
  not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2,
  reason="needs two cores that a process can be kept on",
)
@pytest.mark.parametrize("jobs", [1, 2, 1000])
def test_they_share_the_cores(toy, jobs):
  flags = ["--run", "--rows=float", "--seeds=0,1", f"--jobs={jobs}"]
  found = _sweep(toy, *flags)
  assert found.returncode == 0, found.stderr
  lines = (toy / "log").read_text().splitlines()
  used = [int(line.split()[1]) for line in lines]
  cores = len(os.sched_getaffinity(0))
  if jobs == 2:
    assert {*used} <= {cores // 2, -(-cores // 2)}
  else:
    assert used == [cores] * 2


def test_sigterm_lets_runs_save_and_begins_no_other(toy):
  process = subprocess.Popen(
    [sys.executable, "toy/sweep.py", "--run", "--jobs=1", "--seeds=0"],
    cwd=toy,
    env=_environment(WAITS="near-0"),
    stderr=subprocess.PIPE,
    text=True,
  )
  for line in process.stderr:
    if "float-0" in line:
      break
  while not (toy / "waiting").exists():
    assert process.poll() is None
  process.send_signal(signal.SIGTERM)
  _, said = process.communicate(timeout=30)
  assert process.returncode == 143, said
  assert (toy / "runs" / "toy" / "near-0" / "saved").exists()
  assert "near-0: NOT finished" in said
  assert _ran(toy) == ["float-0", "near-0"]
  flags = ["--run", "--jobs=1", "--seeds=0"]
  assert _sweep(toy, *flags).returncode == 0
  assert _ran(toy) == ["near-0", "far-0", "teacher", "poke-0"]


@pytest.fixture
def launcher(toy):
  """Notes its arguments; fails at the run that FAILS names."""
  path = toy / "launch"
  path.write_text(
    '#!/bin/sh\necho "${2##*workdir=*/}" "$@" >>log\n'
    'case "$*" in *"workdir=/far/$FAILS"*) exit 3 ;; esac\n'
  )
  path.chmod(path.stat().st_mode | stat.S_IXUSR)
  return path


def test_a_launcher_takes_the_arguments_of_jbin_train(toy, launcher):
  """It says by its exit code whether a run is over; nothing is looked up."""
  flags = ["--run", "--jobs=1", "--seeds=0,1", "--rows=poke", "--root=/far"]
  flags += [f"--launcher={launcher} --zone=z", "--", "--config.steps=5"]
  found = _sweep(toy, *flags, FAILS="poke-0")
  assert found.returncode == 1
  lines = (toy / "log").read_text().splitlines()
  assert [line.split("workdir=")[-1] for line in lines] == [
    f"/far/{name} --config.steps=5" for name in ("teacher", "poke-0", "poke-1")
  ]
  assert all("--zone=z --config=" in line for line in lines)
  assert "not finished: /far/poke-0\n" in found.stderr
  assert not (toy / "far").exists()
  assert _sweep(toy, *flags, FAILS="no").returncode == 0


# --- The table ----------------------------------------------------------------


def test_it_writes_the_table_between_the_marks(toy):
  _finish(toy / "runs/toy/float-0", 0.45, seconds=1800)
  _finish(toy / "runs/toy/float-1", 0.47, seconds=5400, timing=(7, 8))
  _finish(toy / "runs/toy/teacher", 0.8, timing=(3600, 3600))
  (toy / "runs/toy/near-0").mkdir()  # not finished
  readme = toy / "toy" / "README.md"
  readme.write_text("a\n<!-- table -->\nold\n<!-- end of table -->\nb\n")
  for root in ("runs/toy", "gone"):  # what was collected is kept
    found = _sweep(toy, "--table", f"--root={root}")
    assert found.returncode == 0, found.stderr
  assert readme.read_text().splitlines() == [
    "a",
    "<!-- table -->",
    "| row | top-1 | hours |",
    "|---|---|---|",
    "| `far` | not run | – |",
    "| `float` | 46.00 ± 1.41 | 2.0 |",
    "| `near` | not run | – |",
    "| `teacher` | 80.00 | 2.0 |",
    "| `poke` | not run | – |",
    "",
    "3 runs; 5400 seconds a run (median), 3.0 hours in all.",
    "<!-- end of table -->",
    "b",
  ]
  line, *_ = (toy / "toy" / "results.jsonl").read_text().splitlines()
  assert json.loads(line) == {
    "row": "float",
    "seed": 0,
    "accuracy": 0.45,
    "first_loss": 2.25,
    "last_loss": 1.5,
    "seconds": 1800,
    "jobs": 2,
  }


def test_some_rows_in_another_file(toy):
  other = toy / "other.md"
  other.write_text("<!-- table --><!-- end of table -->")
  _finish(toy / "elsewhere/near-2", 0.5)
  flags = ["--table", f"--readme={other}", "--root=elsewhere"]
  found = _sweep(toy, *flags, "--rows=near", "--seeds=2")
  assert found.returncode == 0, found.stderr
  assert other.read_text().splitlines()[3:] == [
    "| `near` | 50.00 | 0.0 |",
    "<!-- end of table -->",
  ]
  assert (toy / "results.jsonl").is_file()
  other.write_text("no marks")
  assert "lacks the marks" in _sweep(toy, *flags).stderr
