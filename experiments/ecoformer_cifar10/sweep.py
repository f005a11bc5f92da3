"""The runs of this experiment: PVTv2's attention, softmax over all, hash codes.

From the root of the repository, with CIFAR-10 at TFDS_DATA_DIR; see
`experiments/launcher.py` for what `--run` and `--table` do:

  python experiments/ecoformer_cifar10/sweep.py --run --rows=hash --seeds=0
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

HERE = "experiments/ecoformer_cifar10"

# What makes the config's net and recipe short enough for a CPU core: images of
# 16x16 pixels, whose stages have as many tokens as the config's.
SMALL = {
  "image_size": 16,
  "model.features": (16, 32, 64),
  "model.depths": (1, 1, 1),
  "model.strides": (1, 2, 2),
  "model.mlp_ratios": (2, 2, 2),
  "model.drop_path": 0.0,
  "eval_batch_size": 500,
  "eval_every": 0,
  "checkpoint_every": 0,
  "keep": 1,
  "mesh.data": 1,
}
FIRST = {"steps": 400, "optimizer.learning_rate.start": 2e-3}
AFTER = {"steps": 120, "start.workdir": "{after}"}


class Row(NamedTuple):
  """A run: the attention, what it starts from; the paper's figures (B0)."""

  attention: str
  after: str = ""
  shift: str = ""
  top1: str = ""  # %
  energy: str = ""  # 1e9 pJ


ROWS = {
  "sr": Row("sr"),
  "full": Row("full", "sr", "", "70.77", "9.25"),
  "full_more": Row("full", "full"),
  "hash": Row("hash", "full", "own", "70.44", "2.5"),
  "hash_consistent": Row("hash", "full", "consistent"),
  "hash_scratch": Row("hash", "", "own"),
  "hash_consistent_scratch": Row("hash", "", "consistent"),
}
COLUMNS = (
  "attention",
  "from",
  "shift",
  "top-1 %, here",
  "seeds",
  "training loss, here",
  "top-1 % of B0, paper",
  "energy of B0, 1e9 pJ, paper",
)


def rows() -> Mapping[str, launcher.Run]:
  """Each after what it starts from."""
  found = {}
  for name, row in ROWS.items():
    more = {**SMALL, **(AFTER if row.after else FIRST)}
    if row.shift:
      more["model.shift"] = row.shift
    config = f"configs/ecoformer_cifar10.py:{row.attention}"
    found[name] = launcher.Run(config, more, row.after)
  return found


def cells(name: str, records: Sequence[results.Record]) -> Sequence[str]:
  """A row's line, from the paper and its runs."""
  row = ROWS[name]
  origin = f"`{row.after}`" if row.after else "random numbers"
  ours = ["not run", "", ""]
  if records:
    ours = [results.percent(records, "accuracy")]
    ours += [str(len(records)), results.losses(records)]
  return [row.attention, origin, row.shift, *ours, row.top1, row.energy]


if __name__ == "__main__":
  launcher.main(launcher.Experiment(HERE, rows, COLUMNS, cells))
