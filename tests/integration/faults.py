"""Faults that a run can meet: each is made, and what happens is written down.

A row makes a run, breaks something, and runs again. What it tells is what it
saw: the line on stderr, the exit code, and the steps that were computed again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import shutil
import sys
import tempfile

from jbin import __main__
from jbin.data import _pipeline

ROOT = pathlib.Path(__file__).resolve().parents[2]
TINY = ROOT / "tests" / "train" / "tiny.py"
FLAGS = {"steps": 16, "log_every": 1, "checkpoint_every": 4, "eval_every": 8}
STOPPED = 10  # the step after which `Place.stopped` was stopped


@dataclasses.dataclass(frozen=True)
class Said:
  """What a command did."""

  code: int
  err: str

  @property
  def lines(self):
    return self.err.splitlines()

  @property
  def error(self):
    """The line of what went wrong, which is the last one, and the only one."""
    errors = [line for line in self.lines if line.startswith("jbin: error: ")]
    assert errors == self.lines[-1:], self.err
    return errors[0].removeprefix("jbin: error: ")

  def line(self, words):
    """The one line with these words."""
    (found,) = [line for line in self.lines if words in line]
    return found

  @property
  def begins(self):
    """The step that it goes on after."""
    found = re.search(r"goes on after step (\d+) of", self.err)
    return int(found[1]) if found else 0


@dataclasses.dataclass(frozen=True)
class Observed:
  """A row, less its fault."""

  said: str
  code: int | str
  lost: str
  then: str


def command(argv):
  """Runs a command here; stderr is caught below Python, so that nothing that
  C++ or a thread prints is missed.
  """
  before, err = os.dup(2), sys.stderr
  with tempfile.TemporaryFile("w+", encoding="utf-8") as file:
    os.dup2(file.fileno(), 2)
    sys.stderr = file
    try:
      code = __main__.main(argv)
    finally:
      file.flush()
      sys.stderr = err
      os.dup2(before, 2)
      os.close(before)
    file.seek(0)
    return checked(Said(code, file.read()))


def checked(said):
  """Raises if anything but plain lines was printed."""
  for word in ("Traceback", "Exception ignored", "ERROR:", "  File "):
    assert word not in said.err, said.err
  return said


def arguments(workdir, *flags, config=TINY, given=FLAGS):
  return [
    *("train", f"--config={config}", f"--workdir={workdir}"),
    *(f"--config.{key}={value}" for key, value in given.items()),
    *(f"--config.{flag}" for flag in flags),
  ]


@contextlib.contextmanager
def before_step(n, action):
  """Does something once, right before the batch of step `n` is read."""
  read = _pipeline.StepIterator.__next__
  left = [action]

  def reading(self):
    if self.get_state()["step"] == n - 1 and left:
      left.pop()()
    return read(self)

  _pipeline.StepIterator.__next__ = reading
  try:
    yield
  finally:
    _pipeline.StepIterator.__next__ = read


@contextlib.contextmanager
def spoilt(n, spoil):
  """The batch of step `n` is `spoil(batch)`, however often it is read."""
  read = _pipeline.StepIterator.__next__

  def reading(self):
    at = self.get_state()["step"]
    batch = read(self)
    return spoil(batch) if at == n - 1 else batch

  _pipeline.StepIterator.__next__ = reading
  try:
    yield
  finally:
    _pipeline.StepIterator.__next__ = read


class Place:
  """A folder for runs, with an undisturbed one and one that was stopped."""

  def __init__(self, folder):
    self.folder = pathlib.Path(folder)
    self._made = 0
    self._known = {}

  def new(self):
    self._made += 1
    return self.folder / str(self._made)

  def train(self, workdir, *flags, **given):
    return command(arguments(workdir, *flags, **given))

  def undisturbed(self, **given):
    """The metrics, in bytes, of a run that nothing disturbed."""
    key = str(given)
    if key not in self._known:
      workdir = self.new()
      assert self.train(workdir, **given).code == 0
      self._known[key] = metrics(workdir).read_bytes()
    return self._known[key]

  def stopped(self):
    """A copy of a run that was stopped after `STOPPED` of its steps."""
    if "stopped" not in self._known:
      import signal

      workdir = self.new()
      stop = lambda: signal.raise_signal(signal.SIGTERM)
      with before_step(STOPPED, stop):
        assert self.train(workdir).code == 0
      assert reached(workdir) == STOPPED
      self._known["stopped"] = workdir
    return shutil.copytree(self._known["stopped"], self.new())

  def goes_on(self, workdir, *flags, at=None, **given):
    """(what was said, steps lost): runs to the end; all is as undisturbed."""
    at = reached(workdir) if at is None else at
    said = self.train(workdir, *flags, **given)
    assert said.code == 0, said.err
    assert metrics(workdir).read_bytes() == self.undisturbed(**given)
    lost = at - said.begins
    return said, f"{lost} steps" if lost else "nothing"


def metrics(workdir):
  return workdir / "metrics.jsonl"


def reached(workdir):
  """The last step of the metrics; 0 without any."""
  path = metrics(workdir)
  lines = path.read_text().splitlines() if path.exists() else []
  steps = [json.loads(line)["step"] for line in lines if line.endswith("}")]
  return max(steps, default=0)


def picture(workdir):
  """The files of a run, to see that nothing was changed."""
  return {
    path.relative_to(workdir): path.stat().st_size
    for path in workdir.rglob("*")
    if path.is_file()
  }


def gist(said, *places):
  """A message without what differs from machine to machine."""
  for place, name in places:
    said = said.replace(str(place), name)
  said = re.sub(r"\b[0-9a-f]{32}\b", "*", said)
  said = re.sub(r"has \d+ bytes, and had \d+", "has N bytes, and had M", said)
  said = re.sub(r", at most [^;:]*?\)(?=[;:])", "", said)
  said = re.sub(r"(gradient is|running mean,) [\d.e+-]+", r"\1 X", said)
  said = re.sub(r"/\d+/(?=checkpoints|metrics)", "/", said)
  return said.replace("|", "\\|")


def data_readers():
  """The processes that grain started: children of this one that it spawned."""
  found = []
  for task in pathlib.Path("/proc/self/task").iterdir():
    with contextlib.suppress(FileNotFoundError):  # the thread has ended
      for pid in (task / "children").read_text().split():
        words = pathlib.Path("/proc", pid, "cmdline").read_text()
        if "spawn_main" in words:
          found.append(int(pid))
  return found
