"""`kill -9` at a random moment, start again: the metrics are the same bytes."""

import json
import os
import random
import signal
import subprocess
import sys
import time

from jbin.train import loop
from tests.train.conftest import TINY

STEPS = 120
FLAGS = {
  "steps": STEPS,
  "log_every": 1,
  "checkpoint_every": 7,
  "eval_every": 20,
}


def _command(workdir):
  overrides = [f"--config.{key}={value}" for key, value in FLAGS.items()]
  return [
    *(sys.executable, "-m", "jbin", "train", f"--config={TINY}"),
    *(f"--workdir={workdir}", *overrides),
  ]


def _last_step(path):
  lines = path.read_text().splitlines() if path.exists() else []
  try:
    return json.loads(lines[-1])["step"] if lines else 0
  except ValueError:  # the line is being written
    return 0


def _kill_after(step, workdir, root):
  """Starts the run and kills it once a line of that step is there."""
  process = subprocess.Popen(
    _command(workdir), cwd=root, stderr=subprocess.PIPE, text=True
  )
  metrics = workdir / "metrics.jsonl"
  give_up = time.monotonic() + 120
  while _last_step(metrics) < step and process.poll() is None:
    assert time.monotonic() < give_up, "the run did not get there in time"
    time.sleep(0.002)
  process.kill()
  said = process.communicate()[1]
  assert process.returncode == -signal.SIGKILL, said
  return _last_step(metrics)


def test_kill_9_at_a_random_step_changes_nothing(tmp_path, tiny_config, root):
  seed = int(os.environ.get("JBIN_KILL_SEED", random.randrange(2**32)))
  print("to repeat: JBIN_KILL_SEED =", seed)  # dropout, augmentation are on
  chance = random.Random(seed)
  undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
  loop.run(tiny_config(**FLAGS), undisturbed)
  first = chance.randrange(1, STEPS // 2)
  reached = _kill_after(first, killed, root)
  # The next one may die before the first checkpoint after the restart.
  _kill_after(min(reached + chance.randrange(1, 20), STEPS - 10), killed, root)
  loop.run(tiny_config(**FLAGS), killed)
  want = (undisturbed / "metrics.jsonl").read_bytes()
  assert (killed / "metrics.jsonl").read_bytes() == want
  assert want.count(b"\n") == STEPS + STEPS // 20
