"""The runs of this experiment: the teacher, then PokeBNN at widths x seeds.

From the root of the repository:

  python experiments/pokebnn_imagenet/sweep.py             prints the commands
  python experiments/pokebnn_imagenet/sweep.py --run       runs them in order
  python experiments/pokebnn_imagenet/sweep.py --table     what is finished

A finished workdir is skipped and an unfinished one goes on, so the same command
resumes the sweep. Arguments after `--` go to every run:

  python experiments/pokebnn_imagenet/sweep.py -- --config.image_size=128

On a TPU slice each run is handed to the launch script, which does the same:

  python experiments/pokebnn_imagenet/sweep.py --run --root=/mnt/jbin/poke \
    --launcher=experiments/pokebnn_imagenet/launch_tpu.sh
"""

from __future__ import annotations

import json
import os
import shlex
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

_WIDTHS = flags.DEFINE_list(
  "widths", ["0.5x", "0.75x", "1.0x", "1.4x", "2.0x"], "widths of PokeBNN"
)
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "seeds of each width")
_ROOT = flags.DEFINE_string(
  "root", "runs/pokebnn_imagenet", "folder of the workdirs"
)
_TEACHER = flags.DEFINE_string(
  "teacher", "", "workdir of a teacher that is there; empty: train one first"
)
_LAUNCHER = flags.DEFINE_string(
  "launcher", "", "runs `jbin train` with these arguments; empty: here"
)
_RUN = flags.DEFINE_bool("run", False, "run the commands")
_TABLE = flags.DEFINE_bool("table", False, "print the results so far")


def runs(extra: Sequence[str] = ()) -> dict[str, list[str]]:
  """Workdir -> arguments of `jbin train`, in the order to run them in."""
  root = _ROOT.value
  teacher = _TEACHER.value or f"{root}/teacher"
  found = {}
  if not _TEACHER.value:
    found[teacher] = ["--config=configs/resnet50_imagenet.py:w8a8"]
  for width in _WIDTHS.value:
    for seed in _SEEDS.value:
      found[f"{root}/poke_{width}_seed{seed}"] = [
        f"--config=configs/pokebnn_imagenet.py:{width}",
        f"--config.seed={seed}",
        f"--config.task.teacher_workdir={teacher}",
      ]
  return {
    workdir: [*arguments, f"--workdir={workdir}", *extra]
    for workdir, arguments in found.items()
  }


def finished(workdir: str) -> bool:
  """Whether the run is over: its cost report is the last file it writes."""
  return Path(workdir, "report", "cost.json").is_file()


def run_all(extra: Sequence[str]) -> int:
  """Runs what is not finished; stops at the first that does not finish."""
  here = [sys.executable, "-m", "jbin", "train"]
  launcher = shlex.split(_LAUNCHER.value) or here
  for workdir, arguments in runs(extra).items():
    if finished(workdir):
      print(f"finished before: {workdir}", file=sys.stderr)
      continue
    print(shlex.join(["jbin", "train", *arguments]), file=sys.stderr)
    code = subprocess.run([*launcher, *arguments], check=False).returncode
    # A launcher's workdir may be on another machine; it says by its exit code
    # whether the run is over. One that SIGTERM stopped here exits with 0.
    if code or (launcher == here and not finished(workdir)):
      print(f"{workdir} is not finished; the same command", file=sys.stderr)
      print("goes on from there", file=sys.stderr)
      return code or 1
  return 0


def _records(path: Path) -> list[dict[str, Any]]:
  lines = path.read_text().splitlines() if path.exists() else []
  return [json.loads(line) for line in lines]


def table() -> str:
  """Mean and spread of the final top-1 accuracy, by width, as Markdown."""
  lines = ["| width | top-1, % | seeds | hours each |", "|---|---|---|---|"]
  for width in _WIDTHS.value:
    done = [
      Path(_ROOT.value, f"poke_{width}_seed{seed}") for seed in _SEEDS.value
    ]
    done = [workdir for workdir in done if finished(str(workdir))]
    top1, hours = [], []
    for workdir in done:
      tests = [
        record
        for record in _records(workdir / "metrics.jsonl")
        if record["split"] == "test"
      ]
      top1.append(100 * tests[-1]["accuracy"])
      seconds = [
        record["seconds"] for record in _records(workdir / "timing.jsonl")
      ]
      hours.append(sum(seconds) / 3600)
    if not done:
      lines.append(f"| {width} | not run | | |")
      continue
    spread = f" ± {statistics.stdev(top1):.2f}" if len(top1) > 1 else ""
    lines.append(
      f"| {width} | {statistics.mean(top1):.2f}{spread} | {len(top1)} |"
      f" {statistics.mean(hours):.1f} |"
    )
  return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
  extra = argv[1:]
  if not os.path.isfile("configs/pokebnn_imagenet.py"):
    print(
      "sweep.py: no configs/pokebnn_imagenet.py here; run it from the root of"
      " the repository",
      file=sys.stderr,
    )
    return 2
  if _TABLE.value:
    print(table())
  elif _RUN.value:
    return run_all(extra)
  else:
    for arguments in runs(extra).values():
      print(shlex.join(["jbin", "train", *arguments]))
  return 0


if __name__ == "__main__":
  app.run(main)
