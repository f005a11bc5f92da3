"""`jbin cost`: what a config's model costs, without running it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jbin import errors
from jbin.cli import _flags

if TYPE_CHECKING:
  from jbin import cost


def main(argv: Sequence[str]) -> None:
  """Prints the report, or writes it to `--out`."""
  given, _, config = _flags.parse(
    "cost",
    argv,
    {
      "format": f"{', '.join(FORMATS)} (the first if not given)",
      "out": "a file to write instead of printing",
    },
    config=True,
  )
  assert config is not None
  form = given["format"] or "table"
  if form not in FORMATS:
    raise errors.UnknownName("format", form, FORMATS)
  # Nothing is computed: an accelerator would only be locked, and be slow to
  # start.
  os.environ.setdefault("JAX_PLATFORMS", "cpu")
  from jbin.train import build

  build.check(config)
  text = FORMATS[form](build.cost_report(config))
  if given["out"]:
    path = Path(given["out"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")
  else:
    print(text)


def _html(found: cost.Report) -> str:
  from jbin import report

  return report.cost_page(found.to_json())


FORMATS: dict[str, Callable[[cost.Report], str]] = {
  "table": lambda report: report.to_table(),
  "json": lambda report: json.dumps(report.to_json(), indent=2),
  "csv": lambda report: report.to_csv().rstrip("\n"),
  "markdown": lambda report: report.to_markdown(),
  "html": _html,
}
