"""The launcher of all experiments, with a stand-in for jbin."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time

import pytest

from tests.integration.toy import finish, surroundings, sweep

CURE = (
  "choose another --root, or remove what is there; or give the flags, and the"
  " arguments after --, that it was run with"
)


def _ran(toy):
  """The names of the runs that began since it was asked last."""
  log = toy / "log"
  lines = log.read_text().splitlines() if log.exists() else []
  log.unlink(missing_ok=True)
  return [line.split()[0] for line in lines]


# --- What there is to run -----------------------------------------------------


def test_it_prints_all_rows_at_one_seed_then_at_the_next(toy):
  found = sweep(toy, "--seeds=0,7", "--root=/r", "--", "--config.steps=5")
  assert found.returncode == 0, found.stderr
  rows = {
    "float": "c.py --config.seed=S",
    "near": "c.py:near --config.seed=S",
    "far": "c.py:far --config.seed=S --config.start.workdir=/r/near-S"
    " --config.model.x=3",
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
  lines = sweep(toy, "--rows=far", "--seeds=1").stdout.splitlines()
  workdirs = [line.split("--workdir=")[1] for line in lines]
  assert workdirs == ["runs/toy/float-1", "runs/toy/near-1", "runs/toy/far-1"]


def test_it_says_what_is_wrong(toy):
  found = sweep(toy, "--rows=fra")
  assert found.returncode == 1
  assert "no row 'fra'; there are far, float, near, teacher" in found.stderr
  found = sweep(toy, "--run", "--launcher=./absent --fast")
  assert found.returncode == 1
  assert "'./absent --fast' is no program" in found.stderr
  for seeds in ("", "1,01", "0,-1"):
    found = sweep(toy, f"--seeds={seeds}")
    assert found.returncode == 1
    assert f"--seeds={seeds}: it takes distinct whole" in found.stderr
  os.rename(toy / "toy", toy / "moved")
  found = subprocess.run(
    [sys.executable, "moved/sweep.py"],
    cwd=toy,
    env=surroundings(),
    capture_output=True,
    text=True,
  )
  assert found.returncode == 1
  assert "no toy here; run it from the repository's root" in found.stderr


# --- Running ------------------------------------------------------------------


def test_it_skips_what_is_finished_and_goes_on_after_a_failure(toy):
  runs = toy / "runs" / "toy"
  finish(runs / "float-0")
  flags = ["--run", "--jobs=1", "--seeds=0,1"]
  found = sweep(toy, *flags, FAILS="near-0")
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

  found = sweep(toy, *flags)
  assert found.returncode == 0, found.stderr
  assert _ran(toy) == ["near-0", "far-0"]
  note = json.loads((runs / "near-0" / "sweep.json").read_text())
  assert note["jobs"] == 1
  assert note["seconds"] > once > 0
  # Both parts' output is kept.
  assert "it failed" in (runs / "near-0" / "log.txt").read_text()

  assert sweep(toy, *flags).returncode == 0
  assert _ran(toy) == []


def test_a_failure_stops_all_that_comes_after_it(toy):
  flags = ["--run", "--jobs=2", "--seeds=0", "--rows=far,poke"]
  found = sweep(toy, *flags, FAILS="float-0")
  assert found.returncode == 1
  assert sorted(_ran(toy)) == ["float-0", "poke-0", "teacher"]
  assert len(re.findall("is missing", found.stderr)) == 2


def test_runs_go_side_by_side(toy):
  """The first one ends only when another, which waits for nothing, has run."""
  flags = ["--run", "--jobs=2", "--seeds=0", "--rows=far,teacher"]
  found = sweep(toy, *flags, MEETS="float-0")
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
  found = sweep(toy, *flags)
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
    env=surroundings(WAITS="near-0"),
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
  assert sweep(toy, *flags).returncode == 0
  assert _ran(toy) == ["near-0", "far-0", "teacher", "poke-0"]


def test_a_root_has_one_sweep_at_a_time(toy):
  """Runs of a sweep that was killed keep others out until they end."""
  flags = ["--run", "--jobs=1", "--seeds=0", "--rows=near"]
  process = subprocess.Popen(
    [sys.executable, "toy/sweep.py", *flags],
    cwd=toy,
    env=surroundings(WAITS="float-0"),
    stderr=subprocess.DEVNULL,
  )
  try:
    while not (toy / "waiting").exists() or not (toy / "waiting").read_text():
      assert process.poll() is None
    child = int((toy / "waiting").read_text())
    for _ in range(2):
      found = sweep(toy, *flags)
      assert found.returncode == 1
      assert found.stderr.startswith("runs/toy is in use by another sweep")
      assert found.stderr.count("\n") == 1
      process.kill()
      process.wait()
  finally:
    process.kill()
  assert _ran(toy) == ["float-0"]
  assert sweep(toy, *flags, "--root=other").returncode == 0
  os.kill(child, signal.SIGTERM)
  until = time.time() + 20
  while (found := sweep(toy, *flags)).returncode:
    assert "in use" in found.stderr
    assert time.time() < until
  assert _ran(toy) == ["float-0", "near-0"] * 2


# --- Whose run a workdir has --------------------------------------------------


def test_a_trial_is_not_taken_for_the_run_of_a_row(toy):
  """It has another config; what may change in a run that goes on, may."""
  flags = ["--run", "--jobs=1", "--seeds=0", "--rows=near"]
  trial = ["--", "--config.steps=6", "--config.model.x=1"]
  assert sweep(toy, *flags, *trial, FAILS="near-0").returncode == 1
  assert _ran(toy) == ["float-0", "near-0"]
  found = sweep(toy, *flags)
  assert found.returncode == 1
  assert _ran(toy) == []
  differ = "model.x: 1 -> 'unset'; steps: 6 -> 9"
  assert found.stderr.splitlines() == [
    f"runs/toy/float-0 holds another run: {differ}",
    f"runs/toy/near-0 holds another run: {differ}",
    CURE,
  ]
  flags += trial
  assert sweep(toy, *flags, "--config.log_every=3").returncode == 0
  assert _ran(toy) == ["near-0"]


def test_what_a_run_starts_from_is_compared_as_it_is_given(toy):
  flags = ["--run", "--jobs=1", "--seeds=0", "--rows=poke"]
  assert sweep(toy, *flags).returncode == 0
  assert sweep(toy, *flags).returncode == 0
  assert _ran(toy) == ["teacher", "poke-0"]
  found = sweep(toy, *flags, f"--root={toy}/runs/toy")
  assert found.returncode == 1
  assert (
    f"{toy}/runs/toy/poke-0 holds another run: task.teacher_workdir:"
    f" 'runs/toy/teacher' -> '{toy}/runs/toy/teacher'\n" in found.stderr
  )


def test_a_config_that_cannot_be_read(toy):
  """The sweep's own, one of another version, and one that is not there."""
  finish(toy / "runs/toy/float-0")
  flags = ["--run", "--jobs=1", "--seeds=0", "--rows=float"]
  found = sweep(toy, *flags, "--", "--config.step=6")
  assert "runs/toy/float-0: unknown config key 'step'" in found.stderr
  config = toy / "runs/toy/float-0/config.json"
  config.write_text(json.dumps({**json.loads(config.read_text()), "old": 1}))
  found = sweep(toy, *flags)
  assert "its config.json cannot be read: unknown config key" in found.stderr
  config.write_text("{")
  found = sweep(toy, *flags)
  assert "float-0 holds another run: no config.json can be" in found.stderr
  (toy / "runs/toy/float-0/report/index.html").unlink()  # now it goes on
  assert sweep(toy, *flags).returncode == 0
  assert _ran(toy) == ["float-0"]


# --- Elsewhere ----------------------------------------------------------------


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
  found = sweep(toy, *flags, FAILS="poke-0")
  assert found.returncode == 1
  lines = (toy / "log").read_text().splitlines()
  assert [line.split("workdir=")[-1] for line in lines] == [
    f"/far/{name} --config.steps=5" for name in ("teacher", "poke-0", "poke-1")
  ]
  assert all("--zone=z --config=" in line for line in lines)
  assert "not finished: /far/poke-0\n" in found.stderr
  assert not (toy / "far").exists()
  assert sweep(toy, *flags, FAILS="no").returncode == 0
