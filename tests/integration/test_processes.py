"""Several real processes over loopback: one run, whatever happens to them.

They die, are told to stop, and are of another number when the run goes on: it
is the run of one process, but for rounding.
"""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from jbin.train import lines, loop
from tests.integration import noted
from tests.train import saved
from tests.train.conftest import TINY

STEPS = 40
FLAGS = {
  "steps": STEPS,
  "log_every": 1,
  "checkpoint_every": 7,
  "eval_every": 20,
}
BOUND = 60
"""Seconds within which a process ends once another one is gone."""


class Job:
  """The processes of a job; those that are left are killed at the end."""

  def __init__(self, workdir, root, config=TINY, **flags):
    self.workdir, self.root, self.config = workdir, root, config
    self.flags = {**FLAGS, "mesh.data": -1, **flags}
    self.running = []

  def start(self, count, devices=1, **environment):
    port = lines.free_port()
    self.running = [
      subprocess.Popen(
        [
          *(sys.executable, "-m", "jbin", "train", f"--config={self.config}"),
          *(f"--workdir={self.workdir}", f"--coordinator=127.0.0.1:{port}"),
          *(f"--processes={count}", f"--process={i}"),
          *(f"--config.{key}={value}" for key, value in self.flags.items()),
        ],
        cwd=self.root,
        env={
          **os.environ,
          "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
          **environment,
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
      )
      for i in range(count)
    ]
    return self

  def wait_for(self, step):
    """Until metrics.jsonl has that step, or a process has ended."""
    give_up = time.monotonic() + 300
    while last_step(self.workdir) < step and not self.ended():
      assert time.monotonic() < give_up, "the run did not get there in time"
      time.sleep(0.002)

  def ended(self):
    return any(process.poll() is not None for process in self.running)

  def ends(self, seconds=300):
    """Exit codes, and what the processes said."""
    until = time.monotonic() + seconds
    said = [
      process.communicate(timeout=max(until - time.monotonic(), 0.1))[1]
      for process in self.running
    ]
    return [process.returncode for process in self.running], said


@pytest.fixture
def job(tmp_path, root):
  made = []

  def make(name, **kwargs):
    made.append(Job(tmp_path / name, root, **kwargs))
    return made[-1]

  yield make
  for each in made:
    for process in each.running:
      process.kill()
      process.communicate()


def records(workdir):
  path = workdir / "metrics.jsonl"
  return [json.loads(line) for line in path.read_text().splitlines()]


def last_step(workdir):
  try:
    return records(workdir)[-1]["step"]
  except (OSError, ValueError, IndexError):  # no line yet, or half of one
    return 0


def losses(workdir):
  found = records(workdir)
  steps = [line["step"] for line in found if line["split"] == "train"]
  assert steps == list(range(1, STEPS + 1))  # each once
  return [line["loss"] for line in found]


def rows_of(notes):
  """By process: the rows of each batch that it read."""
  return [
    [json.loads(line) for line in path.read_text().splitlines()][:STEPS]
    for path in sorted(notes.parent.glob(f"{notes.name}.*"))
  ]


def test_two_processes_do_what_one_does(
  job, tiny_config, tmp_path, monkeypatch
):
  one, alone, shared = (tmp_path / name for name in ("one", "alone", "shared"))
  monkeypatch.setenv("NOTES", str(alone))
  loop.run(tiny_config(**FLAGS, data={"name": "noted_digits"}), one)
  two = job("two", config=noted.__file__).start(2, 2, NOTES=str(shared))
  codes, said = two.ends()
  assert codes == [0, 0], said
  np.testing.assert_allclose(losses(two.workdir), losses(one), rtol=1e-4)
  (whole,), halves = rows_of(alone), rows_of(shared)
  assert len(whole) == STEPS
  assert len(halves) == 2
  both = [sorted(a + b) for a, b in zip(*halves, strict=True)]
  assert both == [sorted(rows) for rows in whole]


def _kill(job, victim):
  """SIGKILL to one: the others end with a line each; what that one said."""
  assert not job.ended(), job.ends()
  job.running[victim].kill()
  begin = time.monotonic()
  codes, said = job.ends(BOUND)
  print(f"ended {time.monotonic() - begin:.1f} s after a SIGKILL")
  assert codes.pop(victim) == -signal.SIGKILL
  last = said.pop(victim)
  assert set(codes) == {1}, said
  for text in said:
    (line,) = [line for line in text.splitlines() if "jbin: error" in line]
    assert "is gone" in line
    assert "goes on from the newest checkpoint" in line
    assert "Traceback" not in text
    assert "stack trace" not in text
  return last


def _damage_newest(workdir):
  """Flips bits of the arrays that process 0 wrote; there is an older one."""
  names = [path.name for path in (workdir / "checkpoints").iterdir()]
  steps = [int(name) for name in names if name.isdecimal()]
  assert len(steps) > 1
  newest = workdir / "checkpoints" / str(max(steps))
  for path in (newest / "model" / "ocdbt.process_0" / "d").iterdir():
    saved.flip_file(path)
  return max(steps)


def test_a_job_survives_its_processes(job, tiny_config, tmp_path):
  flags = {**FLAGS, "checkpoint_every": 5, "accumulate": 2, "ema": 0.9}
  one, tried = tmp_path / "one", job("tried", **flags)
  loop.run(tiny_config(**flags), one)

  tried.flags["mesh.fsdp"] = 2
  tried.start(4).wait_for(16)
  _kill(tried, 2)
  damaged = _damage_newest(tried.workdir)
  tried.flags["mesh.fsdp"] = 1
  tried.start(2, 2).wait_for(24)
  said = _kill(tried, 0)  # that coordinates
  assert f"checkpoint {damaged} is damaged and passed over" in said
  assert f"goes on after step {damaged - 5} of {STEPS}" in said
  assert (tried.workdir / "checkpoints.damaged" / str(damaged)).is_dir()

  tried.start(2, 2).wait_for(29)
  tried.running[1].terminate()
  codes, said = tried.ends()
  assert codes == [0, 0], said
  assert "stopped by SIGTERM and saved after step" in said[0]
  at = last_step(tried.workdir)
  assert f"after step {at} of {STEPS}" in said[0]
  assert at < STEPS
  assert (tried.workdir / "checkpoints" / str(at)).is_dir()

  loop.run(tiny_config(**flags), tried.workdir)
  np.testing.assert_allclose(losses(tried.workdir), losses(one), rtol=1e-4)
