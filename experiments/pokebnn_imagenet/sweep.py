"""The runs of this experiment: the teacher, then PokeBNN at widths x seeds.

From the root of the repository; see `experiments/launcher.py` for what `--run`
and `--table` do:

  python experiments/pokebnn_imagenet/sweep.py --run --rows=1.0x --seeds=0

`--teacher` names the workdir of a teacher that is there. On a TPU slice each
run is handed to the launch script, which goes on after preemptions:

  python experiments/pokebnn_imagenet/sweep.py --run --root=/mnt/jbin/poke \
    --launcher=experiments/pokebnn_imagenet/launch_tpu.sh
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from absl import flags

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:  # as a script, only this folder is
  sys.path.insert(0, str(ROOT))

from experiments import launcher, results  # noqa: E402

HERE = "experiments/pokebnn_imagenet"

TEACHER = flags.DEFINE_string(
  "teacher", "", "workdir of a teacher that is there; empty: train one first"
)

# Row -> top-1 % and ACE (1e9) of the paper, or of its code for the teacher;
# then ACE (1e9) and bytes of weights as `jbin cost` counts them.
FIGURES = {
  "teacher": ("77.43", "", "261.707792384", "25,502,912"),
  "0.5x": ("65.2", "", "1.409538048", "2,126,720"),
  "0.75x": ("70.5", "2.6", "2.587619840", "4,013,872"),
  "1.0x": ("73.4", "", "4.222541824", "6,451,008"),
  "1.4x": ("75.6", "7.8", "7.757670928", "11,459,175.375"),
  "2.0x": ("", "", "15.330631680", "21,699,392"),
}
COLUMNS = (
  "top-1 %, paper",
  "ACE 1e9, paper",
  "ACE 1e9, jbin",
  "weights, bytes",
  "top-1 %, jbin",
  "seeds",
  "hours each",
)


def rows() -> Mapping[str, launcher.Run]:
  """The teacher, unless there is one, and every width."""
  teacher = TEACHER.value
  key = "task.teacher_workdir"
  found = {
    name: launcher.Run(
      f"configs/pokebnn_imagenet.py:{name}",
      {key: teacher or "{after}"},
      after="" if teacher else "teacher",
    )
    for name in FIGURES
    if name != "teacher"
  }
  if teacher and not launcher.TABLE.value:  # the table has it either way
    return found
  config = "configs/resnet50_imagenet.py:w8a8"
  return {"teacher": launcher.Run(config, seeded=False), **found}


def cells(name: str, records: Sequence[results.Record]) -> Sequence[str]:
  """A row's figures, from the papers, the counter and its runs."""
  ours = ["not run", "", ""]
  if records:
    hours = [r["seconds"] / 3600 for r in records if "seconds" in r]
    ours = [results.percent(records, "accuracy"), str(len(records))]
    ours.append(f"{statistics.mean(hours):.1f}" if hours else "")
  return [*FIGURES[name], *ours]


if __name__ == "__main__":
  # A run has the accelerator to itself.
  flags.set_default(launcher.JOBS, 1)
  launcher.main(launcher.Experiment(HERE, rows, COLUMNS, cells))
