"""The rows of the fault table."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable

import numpy as np

from tests.integration.faults import (
  FLAGS,
  ROOT,
  STOPPED,
  Observed,
  Place,
  Said,
  arguments,
  before_step,
  checked,
  data_readers,
  gist,
  metrics,
  picture,
  reached,
  spoilt,
)
from tests.train import saved

TOKENS = ROOT / "tests" / "train" / "tokens.py"
SAME = "the same metrics"
FRESH = "with another workdir"


@dataclasses.dataclass(frozen=True)
class Row:
  """A fault, and what makes and observes it."""

  fault: str
  observe: Callable[[Place], Observed]
  slow: bool = False


# --- Told to stop, and killed -------------------------------------------------


def _signal(place, number, words):
  workdir = place.new()
  with before_step(7, lambda: signal.raise_signal(number)):
    said = place.train(workdir)
  at = reached(workdir)
  line = said.line(words)
  _, lost = place.goes_on(workdir, at=at)
  return Observed(gist(line), said.code, lost, SAME)


def sigterm(place):
  return _signal(place, signal.SIGTERM, "stopped by SIGTERM")


def interrupt(place):
  return _signal(place, signal.SIGINT, "stopped by ^C")


def child(place, kind, workdir, *flags, given=FLAGS, **options):
  """Runs in a process of its own, which `tests.integration.faulty` disturbs."""
  del place
  argv = [sys.executable, "-m", "tests.integration.faulty", kind]
  argv += arguments(workdir, *flags, given=given)
  ran = subprocess.run(
    argv, cwd=ROOT, capture_output=True, text=True, **options
  )
  return checked(Said(ran.returncode, ran.stderr))


def sigkill(place):
  workdir = place.new()
  said = child(place, "kill", workdir)
  assert said.code == -signal.SIGKILL
  at = reached(workdir)
  again, lost = place.goes_on(workdir, at=at)
  words = f"then: {again.line('goes on after')}"
  return Observed(words, 128 + signal.SIGKILL, lost, SAME)


# --- Checkpoints --------------------------------------------------------------


def damaged(damage, place):
  workdir = place.stopped()
  damage(workdir / "checkpoints" / str(STOPPED))
  said, lost = place.goes_on(workdir)
  line = said.line("is damaged and passed over")
  return Observed(gist(line, (workdir, "RUN")), said.code, lost, SAME)


def all_damaged(place):
  workdir = place.stopped()
  for folder in (workdir / "checkpoints").iterdir():
    saved.flip(folder)
  return refused(place, workdir, FRESH)


def refused(place, workdir, then, *flags, **given):
  """A start that is refused and touches nothing."""
  before = picture(workdir)
  said = place.train(workdir, *flags, **given)
  assert said.code == 2, said.err
  assert picture(workdir) == before
  words = gist(said.error, (workdir, "RUN"), (place.folder, "DIR"))
  return Observed(words, said.code, "nothing", then)


def other_config(place):
  workdir = place.stopped()
  seen = refused(place, workdir, "with the seed as it was", "seed=1")
  place.goes_on(workdir)
  return seen


def other_model(place):
  workdir = place.stopped()
  return refused(place, workdir, "with the width as it was", "model.width=16")


def format_before(place):
  workdir = place.stopped()
  saved.as_format_1(workdir / "checkpoints" / str(STOPPED))
  said, lost = place.goes_on(workdir)
  assert not (workdir / "checkpoints.damaged").exists()
  return Observed(said.line("goes on after"), said.code, lost, SAME)


def format_to_come(place):
  workdir = place.stopped()
  saved.as_format_9(workdir / "checkpoints" / str(STOPPED))
  return refused(place, workdir, "with that jbin, or " + FRESH)


# --- Disks --------------------------------------------------------------------


def failed(place, said, workdir, at, flag=None, **given):
  """A run that failed, and goes on once that is put right."""
  assert said.code == 1, said.err
  words = gist(said.error, (workdir, "RUN"), (place.folder, "DIR"))
  flags = [flag] if flag else []
  _, lost = place.goes_on(workdir, *flags, at=at, **given)
  return Observed(words, said.code, lost, SAME)


def full_while_saving(place):
  workdir = place.stopped()
  # Less room than one of its files needs. How many files hold the arrays is up
  # to chance; there is room for lines of metrics.
  newest = workdir / "checkpoints" / str(STOPPED)
  room = (newest / "loop" / "_sharding").stat().st_size - 1
  limit = saved.no_file_above(room)
  try:
    with before_step(12, limit.__enter__):
      said = place.train(workdir)
  finally:
    limit.__exit__(None, None, None)
  return failed(place, said, workdir, at=12)


def full_for_metrics(place):
  workdir = place.stopped()

  def fill():
    for fd in os.listdir("/proc/self/fd"):
      link = f"/proc/self/fd/{fd}"
      if os.path.exists(link) and os.readlink(link) == str(metrics(workdir)):
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, int(fd))
        os.close(full)

  with before_step(12, fill):
    said = place.train(workdir)
  return failed(place, said, workdir, at=12)


def unwritable(place):
  place.folder.joinpath("file").write_text("")
  said = place.train(place.folder / "file" / "run")
  assert said.code == 1, said.err
  words = gist(said.error, (place.folder, "DIR"))
  return Observed(words, said.code, "nothing", FRESH)


# --- Data ---------------------------------------------------------------------


def _on_tokens(place):
  """How `place.train` trains the tiny language model."""
  path, config = _tokens(place)
  assert path.is_file()
  return {"config": config, "given": {"steps": 16}}


def _tokens(place):
  path = place.folder / "tokens.npy"
  line = np.random.default_rng(0).integers(0, 256, 40_000)
  np.save(path, line.astype(np.uint16))
  return path, f"{TOKENS}:{path}"


def no_data(place):
  config = f"{TOKENS}:{place.folder / 'gone.npy'}"
  return refused(
    place, place.new(), "with the file in its place", config=config, given={}
  )


def data_vanishes(place):
  path, config = _tokens(place)
  given = {"config": config, "given": {"steps": 16}}
  place.undisturbed(**given)
  workdir, whole = place.new(), path.read_bytes()
  with before_step(7, path.unlink):
    said = place.train(workdir, **given)
  # It trained to the end: what is mapped into memory stays.
  assert reached(workdir) == given["given"]["steps"]
  assert not (workdir / "report" / "index.html").exists()
  words = gist(said.error, (place.folder, "DIR"))
  path.write_bytes(whole)
  _, lost = place.goes_on(workdir, **given)
  assert (workdir / "report" / "index.html").exists()
  return Observed(f"at the report: {words}", said.code, lost, SAME)


def data_cut(place):
  path, config = _tokens(place)
  given = {"config": config, "given": {"steps": 16}}
  place.undisturbed(**given)
  workdir, whole = place.new(), path.read_bytes()
  with before_step(7, lambda: os.truncate(path, 5_000)):
    said = place.train(workdir, **given)
  assert said.code == 1, said.err
  at = reached(workdir)
  words = gist(said.error, (place.folder, "DIR"))
  path.write_bytes(whole)
  again, _ = place.goes_on(workdir, **given)
  # Read ahead, so that it is seen some steps earlier or later.
  assert 0 <= at - again.begins < 4
  return Observed(words, said.code, "less than the interval", SAME)


def reader_killed(place):
  workdir = place.new()

  def kill():
    readers = data_readers()
    assert readers
    for pid in readers:
      os.kill(pid, signal.SIGKILL)

  with before_step(6, kill):
    said = place.train(workdir, "workers=1")
  assert said.code == 1, said.err
  at = reached(workdir)
  assert 5 <= at < 12  # some batches had been read ahead
  words = re.sub(r"batch \d+", "batch N", said.error)
  again, _ = place.goes_on(workdir, "workers=1")
  assert 0 <= at - again.begins < 4
  return Observed(words, said.code, "less than the interval", SAME)


# --- Values that are not finite -----------------------------------------------


def _nan(batch):
  image = batch["image"].copy()
  image[3, 2, 1] = np.nan
  return {**batch, "image": image}


def _one_word(batch):
  """A text of one word: all gradients point the same way."""
  same = {key: np.full_like(batch[key], 7) for key in ("tokens", "targets")}
  return {**batch, **same}


def nan(place):
  workdir = place.new()
  with spoilt(7, _nan):
    said = place.train(workdir)
  return failed(place, said, workdir, at=6)


def _skipped(place, at, spoil, *flags, **given):
  workdir = place.new()
  with spoilt(at, spoil):
    said = place.train(workdir, *flags, **given)
  assert said.code == 0, said.err
  lines = [json.loads(x) for x in metrics(workdir).read_text().splitlines()]
  counts = {x["step"]: x["skipped"] for x in lines if x["split"] == "train"}
  assert counts == {step: int(step >= at) for step in counts}
  assert at in counts
  words = f'none: "skipped" is 1 in metrics.jsonl from step {at} on'
  return Observed(words, said.code, "1 step", "to the end, without that step")


def nan_skipped(place):
  return _skipped(place, 7, _nan, "guard.skip=2")


def _for_spikes(place):
  """As `_on_tokens`, until after the mean norm is one to compare with."""
  return {**_on_tokens(place), "given": {"steps": 28}}


def spike_skipped(place):
  flags, given = ("guard.skip=2", "guard.spike=5"), _for_spikes(place)
  return _skipped(place, 25, _one_word, *flags, **given)


def spike(place):
  given = _for_spikes(place)
  workdir = place.new()
  with spoilt(25, _one_word):
    said = place.train(workdir, "guard.spike=5", **given)
  return failed(place, said, workdir, at=24, flag="guard.spike=5", **given)


# --- Configs, and memory ------------------------------------------------------


def unknown_key(place):
  return refused(place, place.new(), "with the right key", "stepps=3")


def no_teacher(place):
  config = place.folder / "student.py"
  config.write_text(
    "from tests.train import tiny\n"
    "def get_config(arg=''):\n"
    "  config = tiny.get_config()\n"
    "  config.task = {'name': 'distillation', 'teacher_workdir': arg}\n"
    "  return config\n"
  )
  spec = f"{config}:{place.folder / 'teacher'}"
  then = "once the teacher is trained"
  return refused(place, place.new(), then, config=spec)


def out_of_memory(place):
  workdir = place.new()
  width = {"model.width": 40_000_000}
  said = child(place, "small", workdir, given=width, timeout=200)
  assert said.code == 1, said.err
  assert not (workdir / "metrics.jsonl").exists() or not reached(workdir)
  return Observed(gist(said.error), said.code, "nothing", "with a smaller one")


_damage = lambda damage: functools.partial(damaged, damage)

ROWS = (
  Row("SIGTERM, as before a machine is taken away", sigterm),
  Row("SIGKILL, or a machine that is lost", sigkill, slow=True),
  Row("^C", interrupt, slow=True),
  Row("newest checkpoint truncated", _damage(saved.truncate), slow=True),
  Row("newest checkpoint lacks a file", _damage(saved.remove), slow=True),
  Row("a bit of it flipped", _damage(saved.flip)),
  Row(
    "a bit of it flipped, and the run died before sealing it",
    _damage(saved.unseal_and_flip),
    slow=True,
  ),
  Row("its folder emptied", _damage(saved.empty), slow=True),
  Row("all checkpoints damaged", all_damaged),
  Row("checkpoint of another config", other_config),
  Row("checkpoint of another model", other_model),
  Row("checkpoint of the format before", format_before),
  Row("checkpoint of a format to come", format_to_come),
  Row("disk full while saving", full_while_saving),
  Row("disk full for metrics.jsonl", full_for_metrics, slow=True),
  Row("workdir cannot be written to", unwritable),
  Row("data file gone before the start", no_data),
  Row("data file removed in the middle", data_vanishes, slow=True),
  Row("data file cut in the middle", data_cut, slow=True),
  Row("process that reads data killed", reader_killed, slow=True),
  Row("NaN in an image", nan),
  Row("the same, with guard.skip=2", nan_skipped, slow=True),
  Row("a batch whose gradient jumps, with guard.spike=5", spike, slow=True),
  Row("the same, with guard.skip=2 as well", spike_skipped, slow=True),
  Row("unknown config key", unknown_key),
  Row("teacher's run gone", no_teacher),
  Row("out of memory", out_of_memory, slow=True),
)
