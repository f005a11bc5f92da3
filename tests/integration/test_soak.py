"""Killed again and again, at any moment: the metrics are the same bytes.

Everything that could be forgotten is on: dropout, augmentation, a batch in
parts, an average, schedules, a teacher, the guard, and (in every second life)
a worker process. `make soak` runs the long form.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from jbin.train import loop
from tests.train.conftest import TINY

FLAGS = {
  "log_every": 3,
  "checkpoint_every": 7,
  "eval_every": 50,
  "accumulate": 2,
  "ema": 0.9,
  "guard": {"skip": 3, "spike": 1000.0},
}
WAITS = ("start", "step", "step", "save")


@pytest.fixture
def chance():
  seed = int(os.environ.get("JBIN_KILL_SEED", random.randrange(2**32)))
  print("to repeat: JBIN_KILL_SEED =", seed)
  return random.Random(seed)


@pytest.fixture
def flags(tiny_config, tmp_path):
  """What the run is, with a teacher of its own."""
  teacher = tmp_path / "teacher"
  loop.run(tiny_config(steps=10), teacher)
  task = {
    "name": "distillation",
    "teacher_workdir": str(teacher),
    "hard_weight": {"name": "linear", "start": 0.0, "end": 0.5},
  }
  return {**FLAGS, "task": task}


def _words(flags, prefix="--config"):
  for key, value in flags.items():
    if isinstance(value, dict) and key != "hard_weight":
      yield from _words(value, f"{prefix}.{key}")
    else:
      yield f"{prefix}.{key}={value}"


class Life:
  """A process that trains, until something ends it."""

  def __init__(self, workdir, root, flags):
    self.workdir = workdir
    self.process = subprocess.Popen(
      [
        *(sys.executable, "-m", "jbin", "train", f"--config={TINY}"),
        *(f"--workdir={workdir}", *_words(flags)),
      ],
      cwd=root,
      stderr=subprocess.PIPE,
      text=True,
    )

  def step(self):
    path = self.workdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    try:
      return json.loads(lines[-1])["step"] if lines else 0
    except ValueError:  # the line is being written
      return 0

  def is_saving(self):
    folder = self.workdir / "checkpoints"
    return any("tmp" in path.name for path in folder.glob("*"))

  def until(self, true):
    give_up = time.monotonic() + 240
    while not true() and self.process.poll() is None:
      assert time.monotonic() < give_up, "the run did not get there in time"
      time.sleep(0.0005)

  def end(self, number):
    """What it said, and how it ended."""
    self.process.send_signal(number)
    said = self.process.communicate()[1]
    return self.process.returncode, said


def _one(life, wait, number, chance, least, most):
  """Ends one life; the step it had reached."""
  if wait == "start":  # while it imports, compiles or restores
    over = time.monotonic() + chance.uniform(0, 6)
    life.until(lambda: time.monotonic() > over)
  else:
    goal = min(least + chance.randrange(1, 40), most)
    life.until(lambda: life.step() >= goal)
    if wait == "save":
      life.until(life.is_saving)
    time.sleep(chance.uniform(0, 0.03))
  code, said = life.end(number)
  if number == signal.SIGTERM and code == 0:
    assert "stopped by SIGTERM" in said, said
    assert wait == "start" or "and saved after step" in said, said
  elif number == signal.SIGTERM:
    # In its first second, while Python loads the command itself.
    assert (wait, code) == ("start", -signal.SIGTERM), said
  else:
    assert code == -signal.SIGKILL, said
  assert "Traceback" not in said
  return life.step()


def _soak(workdir, root, flags, chance, kills, steps):
  """Ends so many lives, then lets the last one be; what happened."""
  reached, notes = 0, []
  # Of the children alone: it would hold for all that this process compiles.
  cached = {"compile_cache": str(workdir.with_name("cache"))}
  for i in range(kills):
    number = (signal.SIGKILL, signal.SIGTERM)[
      i % 2 if i < 2 else chance.randrange(2)
    ]
    wait = "save" if i == 0 else chance.choice(WAITS)
    life = Life(workdir, root, {**flags, **cached, "workers": i % 2})
    reached = _one(life, wait, number, chance, reached, steps - 40)
    notes.append(f"{number.name} at {wait}, step {reached}")
    print(notes[-1], flush=True)
  code, said = Life(workdir, root, {**flags, **cached}).end(0)
  assert code == 0, said
  return notes


def _check(tmp_path, root, flags, tiny_config, chance, kills, steps):
  flags = {**flags, "steps": steps}
  undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
  loop.run(tiny_config(**flags), undisturbed)
  _soak(killed, root, flags, chance, kills, steps)
  want = (undisturbed / "metrics.jsonl").read_bytes()
  assert (killed / "metrics.jsonl").read_bytes() == want
  lines = [json.loads(line) for line in want.splitlines()]
  assert lines[-1]["step"] == steps
  assert lines[-1]["accuracy"] > 0.5


def test_killed_a_few_times(tmp_path, root, flags, tiny_config, chance):
  _check(tmp_path, root, flags, tiny_config, chance, kills=3, steps=150)


@pytest.mark.soak
def test_killed_two_dozen_times(tmp_path, root, flags, tiny_config, chance):
  _check(tmp_path, root, flags, tiny_config, chance, kills=24, steps=600)
