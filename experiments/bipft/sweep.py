"""The runs of this experiment: pretraining, float and binary, then fine-tuning.

From the root of the repository, with the Stanford sentiment treebank at
TFDS_DATA_DIR and WikiText-2's two files in the folder `--text`; see
`experiments/launcher.py` for what `--run` and `--table` do:

  python experiments/bipft/sweep.py --run --text=DIR --rows=finetune_b --seeds=0
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from absl import flags

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:  # as a script, only this folder is
  sys.path.insert(0, str(ROOT))

from experiments import launcher, results  # noqa: E402

HERE = "experiments/bipft"

TEXT = flags.DEFINE_string(
  "text", ".", "folder of wikitext2.valid.txt and wikitext2.test.txt"
)

EVERY = {"eval_every": 0, "keep": 1}
STEPS = 1000  # of pretraining: fewer than the config's
# Sentences that no choice was made by.
FINE_TUNING = {"data.eval_split": "test", "eval_batch_size": 64}


class Row(NamedTuple):
  """A run: the config's argument, what it starts from, and what it has."""

  argument: str
  after: str = ""
  low_rank: int | None = None  # None: a float net, which has none
  teacher: bool = False


ROWS = {
  "pretrain_float": Row("pretrain_float"),
  "pretrain_a": Row("pretrain", "pretrain_float", 0, teacher=True),
  "pretrain_b": Row("pretrain", "pretrain_float", 1, teacher=True),
  "finetune_float": Row("finetune_float", "pretrain_float"),
  "direct": Row("direct", "pretrain_float", 0),
  "finetune_a": Row("finetune", "pretrain_a", 0),
  "finetune_b": Row("finetune", "pretrain_b", 1),
}
COLUMNS = (
  "from",
  "W-E-A",
  "low-rank terms",
  "hidden words found %, here",
  "sentiment accuracy %, here",
  "seeds",
  "training loss, here",
)


def rows() -> Mapping[str, launcher.Run]:
  """Each after what it starts from."""
  names = ("wikitext2.valid.txt", "wikitext2.test.txt")
  files = tuple(str(Path(TEXT.value, name)) for name in names)
  found = {}
  for name, row in ROWS.items():
    pretraining = row.argument.startswith("pretrain")
    more = {**EVERY, "data.vocab_files": files}
    if pretraining:
      more |= {"data.files": files, "steps": STEPS}
    else:
      more |= FINE_TUNING
    if row.low_rank is not None:
      more["model.low_rank"] = row.low_rank
    if row.after:
      more["start.workdir"] = "{after}"
    if row.teacher:
      more["task.teacher_workdir"] = "{after}"
    config = f"configs/bipft.py:{row.argument}"
    found[name] = launcher.Run(config, more, row.after)
  return found


def cells(name: str, records: Sequence[results.Record]) -> Sequence[str]:
  """A row's line, from its runs."""
  row = ROWS[name]
  binary = row.low_rank is not None
  what = [f"`{row.after}`" if row.after else "random numbers"]
  what.append("1-1-1" if binary else "32-32-32")
  what.append(("no", "rank 1")[row.low_rank or 0] if binary else "")
  words = row.argument.startswith("pretrain")
  if not records:
    ours = ["not run", ""] if words else ["", "not run"]
    return [*what, *ours, "", ""]
  key = "masked_lm_accuracy" if words else "accuracy"
  share = results.percent(records, key)
  ours = [share, ""] if words else ["", share]
  return [*what, *ours, str(len(records)), results.losses(records)]


if __name__ == "__main__":
  launcher.main(launcher.Experiment(HERE, rows, COLUMNS, cells))
