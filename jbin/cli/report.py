"""`jbin report`: compares finished runs on one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jbin.cli import _flags


def main(argv: Sequence[str]) -> None:
  """Writes the page, prints the table and the page's path."""
  given, _, _ = _flags.parse(
    "report",
    argv,
    {
      "workdirs": "finished runs, separated by commas",
      "out": "the folder for the page",
    },
    needs=["workdirs", "out"],
  )
  from jbin import report

  workdirs = [Path(part) for part in given["workdirs"].split(",") if part]
  page = report.write(workdirs, Path(given["out"]))
  print(report.summary(workdirs, page))
