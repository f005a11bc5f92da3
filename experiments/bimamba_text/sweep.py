"""The runs of this experiment: float nets, then the 1-bit ones, taught or not.

From the root of the repository, with WikiText-2's two files in the folder
`--text` (without it: the documentation topics of the Python that runs); see
`experiments/launcher.py` for what `--run` and `--table` do:

  python experiments/bimamba_text/sweep.py --run --text=DIR --rows=bimamba
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from absl import flags

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:  # as a script, only this folder is
  sys.path.insert(0, str(ROOT))

from experiments import launcher, results  # noqa: E402

HERE = "experiments/bimamba_text"
TEXT = flags.DEFINE_string(
  "text",
  "",
  "folder of wikitext2.valid.txt (training) and wikitext2.test.txt; empty:"
  " Python's documentation",
)

SMALL = {
  "steps": 500,
  "eval_batch_size": 64,
  "eval_every": 0,
  "checkpoint_every": 0,
  "keep": 1,
}


class Row(NamedTuple):
  """A run: the config's argument, and the net that it learns from."""

  argument: str
  teacher: str = ""


ROWS = {
  "mamba": Row("mamba"),
  "bimamba_labels": Row("bimamba,labels"),
  "bimamba": Row("bimamba", "mamba"),
  "llama": Row("llama"),
  "fbi_llm_labels": Row("fbi_llm,labels"),
  "fbi_llm": Row("fbi_llm", "llama"),
}
COLUMNS = (
  "learns from",
  "bits per byte, here",
  "next byte found %, here",
  "seeds",
  "training loss, here",
  "parameters",
  "of 1 bit",
  "stored, KiB",
  "ACE of a token, 1e9",
)


def rows() -> Mapping[str, launcher.Run]:
  """Each after its teacher."""
  more = dict(SMALL)
  if TEXT.value:
    train, test = (
      str(Path(TEXT.value, f"wikitext2.{split}.txt"))
      for split in ("valid", "test")
    )
    more |= {"data.files": (train,), "data.eval_files": (test,)}
  found = {}
  for name, row in ROWS.items():
    own = {"task.teacher_workdir": "{after}"} if row.teacher else {}
    config = f"configs/bimamba_text.py:{row.argument}"
    found[name] = launcher.Run(config, {**more, **own}, row.teacher)
  return found


class Costs(NamedTuple):
  """What a net weighs, and what a token costs it."""

  parameters: int
  binary: int
  stored: float  # bytes
  ace: float


def costs(argument: str) -> Costs:
  """Read off the net's program; parameters that are no codes have 16 bits.

  A token comes after as many as a text of training has: an attention looks at
  all of them.
  """
  from jbin.cli import _flags
  from jbin.train import config as config_lib, counting

  config = config_lib.from_mapping(
    _flags.load(f"{ROOT}/configs/bimamba_text.py:{argument}")
  )
  config = dataclasses.replace(config, dtype="bfloat16")
  report = counting.decoding_report(config, param_dtype="bfloat16")
  return Costs(
    int(report.params["total"]),
    int(report.weights_by_bits.get(1, 0)),
    report.memory().parameters_bytes,
    report.ace,
  )


def cells(name: str, records: Sequence[results.Record]) -> Sequence[str]:
  """A row's line, from its runs and its program."""
  row = ROWS[name]
  said = f"`{row.teacher}`" if row.teacher else "the text"
  ours = ["not run", "", "", ""]
  if records:
    bits = results.spread([r["bits_per_byte"] for r in records], 3)
    found = results.percent(records, "accuracy")
    ours = [bits, found, str(len(records)), results.losses(records)]
  cost = costs(row.argument)
  return [
    said,
    *ours,
    f"{cost.parameters:,}",
    f"{cost.binary:,}" if cost.binary else "",
    f"{cost.stored / 2**10:,.1f}",
    f"{cost.ace / 1e9:.3f}",
  ]


if __name__ == "__main__":
  launcher.main(launcher.Experiment(HERE, rows, COLUMNS, cells))
