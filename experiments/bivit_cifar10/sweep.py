"""The runs of this experiment: BiViT, what it is compared with, and its parts.

From the root of the repository, with CIFAR-10 at TFDS_DATA_DIR; see
`experiments/launcher.py` for what `--run` and `--table` do:

  python experiments/bivit_cifar10/sweep.py --run --rows=bivit --seeds=0
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:  # as a script, only this folder is
  sys.path.insert(0, str(ROOT))

from experiments import launcher, results  # noqa: E402

HERE = "experiments/bivit_cifar10"
CONFIG = "configs/bivit_cifar10.py"

# What makes the config's net and recipe short enough for a CPU core.
SMALL = {
  "model.features": 64,
  "model.depth": 4,
  "model.drop_path": 0.0,
  "eval_batch_size": 500,
  "eval_every": 0,
  "checkpoint_every": 0,
  "keep": 1,
  "mesh.data": 1,
}
FLOAT = {"steps": 1500, "optimizer.learning_rate.start": 2e-3}
# From the float net of the same seed, which is the teacher, too.
LOW = {
  "steps": 700,
  "batch_size": 64,
  "optimizer.learning_rate.start": 1e-3,
  "start.workdir": "{after}",
  "task.teacher_workdir": "{after}",
}


class Row(NamedTuple):
  """What a run has, and top-1 % on TinyImageNet in the paper."""

  argument: str  # of the config
  attention: str
  mlp: str
  scales: str = "mean"  # of kernels
  order: str = "at once"  # of attentions and MLPs
  swin: str = ""  # Swin-T
  nest: str = ""  # NesT-T


LATER = "MLPs later"
ROWS = {
  "float": Row("float", "softmax", "float", "", "", "80.57", "80.31"),
  "plain": Row("plain", "sign", "W1A1"),
  "bibert": Row("bibert", "bool", "W1A1", swin="41.89", nest="32.39"),
  "bivit": Row("bivit", "SAB", "W1A1", "learned", LATER, "58.66", "52.21"),
  "bivit_bool": Row("bivit_bool", "bool", "W1A1", "learned", LATER),
  "bivit_mean": Row("bivit_mean", "SAB", "W1A1", order=LATER),
  "bivit_together": Row("bivit_together", "SAB", "W1A1", "learned"),
  "bibert_w1a32": Row(
    "bibert,w1a32", "bool", "W1A32", swin="65.93", nest="49.53"
  ),
  "bivit_w1a32": Row(
    "bivit,w1a32", "SAB", "W1A32", "learned", LATER, "71.20", "69.83"
  ),
  "bivit_together_w1a32": Row(
    "bivit_together,w1a32", "SAB", "W1A32", "learned", nest="58.20"
  ),
}
COLUMNS = (
  "attention",
  "MLPs",
  "scales",
  "order",
  "top-1 %, here",
  "as the teacher, %",
  "seeds",
  "training loss, here",
  "Swin-T, paper",
  "NesT-T, paper",
)


def rows() -> Mapping[str, launcher.Run]:
  """The float net, then what starts from it."""
  found = {}
  for name, row in ROWS.items():
    config = f"{CONFIG}:{row.argument}"
    more, after = (FLOAT, "") if name == "float" else (LOW, "float")
    found[name] = launcher.Run(config, {**SMALL, **more}, after)
  return found


def cells(name: str, records: Sequence[results.Record]) -> Sequence[str]:
  """A row's line, from the paper and its runs."""
  row = ROWS[name]
  what = [row.attention, row.mlp, row.scales, row.order]
  ours = ["not run", "", "", ""]
  if records:
    ours = [results.percent(records, "accuracy")]
    ours.append(results.percent(records, "agreement"))
    ours += [str(len(records)), results.losses(records)]
  return [*what, *ours, row.swin, row.nest]


if __name__ == "__main__":
  launcher.main(launcher.Experiment(HERE, rows, COLUMNS, cells))
