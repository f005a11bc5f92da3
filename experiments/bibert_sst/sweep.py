"""The runs of this experiment: plain binary, each part of BiBERT, both.

From the root of the repository, with the Stanford sentiment treebank at
TFDS_DATA_DIR; see `experiments/launcher.py` for what `--run` and `--table` do:

  python experiments/bibert_sst/sweep.py --run --rows=plain,bibert --seeds=0
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

HERE = "experiments/bibert_sst"

# Sentences that no choice was made by; nothing between start and end.
EVERY = {
  "steps": 1299,  # 3 epochs
  "data.eval_split": "test",
  "eval_batch_size": 64,
  "eval_every": 0,
  "checkpoint_every": 0,
}
# At the config's rate, which is for low bits, so short a run may not learn.
FLOAT = {"optimizer.learning_rate.start": 2e-4}
FROM_FLOAT = {"start.workdir": "{after}", "task.teacher_workdir": "{after}"}


class Row(NamedTuple):
  """What a run has; accuracy on SST-2 in the paper."""

  attention: str
  matched: str  # of the teacher's inside
  bits: str = "1-1-1"  # of weights, embeddings, activations
  paper: str = ""


ROWS = {
  "float": Row("softmax", "", "32-32-32", "93.2"),
  "plain": Row("sign", "", paper="77.6"),
  "attention": Row("bool", ""),
  "distillation": Row("sign", "queries, keys, values, hidden"),
  "bibert": Row("bool", "queries, keys, values, hidden", paper="88.7"),
}
COLUMNS = (
  "W-E-A",
  "attention",
  "matched",
  "accuracy %, here",
  "as the teacher, %",
  "seeds",
  "training loss, here",
  "SST-2, paper",
)


def rows() -> Mapping[str, launcher.Run]:
  """The float net, then what starts from it and learns from it."""
  found = {}
  for name in ROWS:
    config = f"configs/bibert_sst.py:{name}"
    more, after = (FLOAT, "") if name == "float" else (FROM_FLOAT, "float")
    found[name] = launcher.Run(config, {**EVERY, **more}, after)
  return found


def cells(name: str, records: Sequence[results.Record]) -> Sequence[str]:
  """A row's line, from the paper and its runs."""
  row = ROWS[name]
  ours = ["not run", "", "", ""]
  if records:
    ours = [results.percent(records, "accuracy")]
    ours.append(results.percent(records, "agreement"))
    ours += [str(len(records)), results.losses(records)]
  return [row.bits, row.attention, row.matched, *ours, row.paper]


if __name__ == "__main__":
  launcher.main(launcher.Experiment(HERE, rows, COLUMNS, cells))
