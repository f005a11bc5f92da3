"""What a table needs of finished runs, and how it writes it."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

NOTE = "sweep.json"  # of the launcher, in a workdir

Record = dict[str, Any]


def lines_of(path: Path, split: str = "") -> list[Record]:
  """The lines of a file, if it is there; of one split, if that is named."""
  lines = path.read_text().splitlines() if path.exists() else []
  found = [json.loads(line) for line in lines]
  return [line for line in found if not split or line["split"] == split]


def measured(name: str, seed: int, workdir: Path) -> Record:
  """The record of a finished run: its last evaluation, losses, seconds."""
  path = workdir / "metrics.jsonl"
  train, test = lines_of(path, "train"), lines_of(path, "test")
  note = workdir / NOTE
  took = [line["seconds"] for line in lines_of(path.with_stem("timing"))]
  last = {k: v for k, v in test[-1].items() if k not in ("step", "split")}
  return {
    "row": name,
    "seed": seed,
    **last,
    "first_loss": train[0]["loss"],
    "last_loss": train[-1]["loss"],
    # A launcher's run has no note; its own clock lacks the start and the end.
    **({"seconds": sum(took), "jobs": 1} if took else {}),
    **(json.loads(note.read_text()) if note.is_file() else {}),
  }


def spread(values: Sequence[float], digits: int = 2) -> str:
  """Mean and standard deviation, as a table has them."""
  end = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
  return f"{statistics.mean(values):.{digits}f}{end}"


def percent(records: Sequence[Record], key: str, digits: int = 2) -> str:
  """Mean and standard deviation of a share; "" if no run has it."""
  values = [100 * record[key] for record in records if key in record]
  return spread(values, digits) if values else ""


def losses(records: Sequence[Record]) -> str:
  """Means of the loss over the first lines of a run's log and over its last."""
  keys = ("first_loss", "last_loss")
  return " → ".join(
    f"{statistics.mean(record[key] for record in records):.2f}" for key in keys
  )


def took(records: Sequence[Record]) -> str:
  """Seconds of a run, and hours of all; "" if no run has a time."""
  timed = [record for record in records if "seconds" in record]
  if not timed:
    return ""
  each = statistics.median(record["seconds"] for record in timed)
  total = sum(record["seconds"] / record["jobs"] for record in timed) / 3600
  runs = "1 run" if len(records) == 1 else f"{len(records)} runs"
  return f"{runs}; {each:.0f} seconds a run (median), {total:.1f} hours in all."
