"""A table of figures: ours, read off programs, beside the published ones.

A difference larger than rounding needs a reason, and a reason needs a
difference; a sheet that lacks either is an error.
"""

from __future__ import annotations

import dataclasses
import decimal
import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
_RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")

# A row and a column.
Cell = tuple[str, str]


@functools.cache
def published(name: str) -> Mapping[str, Any]:
  """What `published.json` has under a name: source, rows, and other figures."""
  path = HERE / "published.json"
  return json.loads(path.read_text(encoding="utf-8"))[name]


@dataclasses.dataclass(frozen=True)
class Column:
  """One quantity.

  Attributes:
    key: as rows and `published.json` have it.
    head: as it is printed, with its unit.
    unit: what one of the printed unit is in ours.
    digits: of ours after the point.
  """

  key: str
  head: str
  unit: float = 1.0
  digits: int = 3

  def text(self, ours: float) -> str:
    """Our figure as it is printed."""
    step = decimal.Decimal(1).scaleb(-self.digits)
    value = (_decimal(ours) / _decimal(self.unit)).quantize(
      step, decimal.ROUND_HALF_UP
    )
    return f"{value:,}"

  def agrees(self, ours: float, paper: str) -> bool:
    """Whether the published figure is ours, rounded."""
    theirs = decimal.Decimal(paper)
    exponent = theirs.as_tuple().exponent
    assert isinstance(exponent, int)
    half = decimal.Decimal(5).scaleb(exponent - 1)
    return abs(_decimal(ours) / _decimal(self.unit) - theirs) <= half


def _decimal(x: float) -> decimal.Decimal:
  return decimal.Decimal(x) if isinstance(x, int) else decimal.Decimal(str(x))


@dataclasses.dataclass(frozen=True)
class Sheet:
  """One table of the README.

  Attributes:
    name: of its section and of `--only`.
    columns: from left to right.
    rows: name -> a function that makes the row's figures, by column.
    whys: reason -> the cells whose published figure is not ours, rounded.
  """

  name: str
  columns: Sequence[Column]
  rows: Mapping[str, Callable[[], Mapping[str, float]]]
  whys: Mapping[str, Sequence[Cell]] = dataclasses.field(default_factory=dict)

  def paper(self, row: str, column: str) -> str:
    """The published figure as it is printed; "" if there is none."""
    return published(self.name)["rows"].get(row, {}).get(column, "")

  def reason(self, row: str, column: str) -> int:
    """The number of the reason for a difference, from 1; 0: none."""
    for number, cells in enumerate(self.whys.values(), 1):
      if (row, column) in cells:
        return number
    return 0

  def figures(self, names: Iterable[str] = ()) -> dict[str, dict[str, float]]:
    """The rows asked for, or all of them, by name and column."""
    chosen = list(names) or list(self.rows)
    return {name: dict(self.rows[name]()) for name in chosen}

  def errors(self, figures: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Differences without a reason, and reasons without a difference."""
    found = []
    for row, values in figures.items():
      for column in self.columns:
        paper = self.paper(row, column.key)
        if not paper or column.key not in values:
          continue
        ours = values[column.key]
        same = column.agrees(ours, paper)
        why = self.reason(row, column.key)
        if same == bool(why):
          say = "agree, and have a" if same else "differ, and have no"
          found.append(
            f"{self.name}: {row}, {column.head}: {column.text(ours)} and the"
            f" published {paper} {say} reason"
          )
    return found

  def count(self, figures: Mapping[str, Mapping[str, float]]) -> str:
    """How many figures are published, and how many of those differ."""
    papers = [
      (row, column.key)
      for row, values in figures.items()
      for column in self.columns
      if column.key in values and self.paper(row, column.key)
    ]
    apart = sum(1 for cell in papers if self.reason(*cell))
    return f"{len(papers)} published figures, {apart} explained differences"

  def head(self) -> list[str]:
    """The two lines above the rows."""
    cells = [self.name]
    for column in self.columns:
      cells += (
        [f"{column.head}, paper", f"{column.head}, jbin"]
        if self._has_paper(column)
        else [column.head]
      )
    return [_line(cells), _line(["---"] + ["---:"] * (len(cells) - 1))]

  def line(self, row: str, values: Mapping[str, float]) -> str:
    """One row."""
    cells = [row]
    for column in self.columns:
      ours = "–"
      if column.key in values:
        ours = column.text(values[column.key])
        if number := self.reason(row, column.key):
          ours += str(number).translate(_RAISED)
      if self._has_paper(column):
        cells.append(_grouped(self.paper(row, column.key)) or "–")
      cells.append(ours)
    return _line(cells)

  def markdown(self, figures: Mapping[str, Mapping[str, float]]) -> str:
    """The table, the reasons, and the source."""
    lines = self.head()
    lines += [self.line(row, values) for row, values in figures.items()]
    if source := published(self.name)["source"]:
      lines += ["", f"Published: {source}."]
    if self.whys:
      lines += ["", "Where ours differ by more than rounding:", ""]
      lines += [f"{i}. {why}." for i, why in enumerate(self.whys, 1)]
    return "\n".join(lines)

  def _has_paper(self, column: Column) -> bool:
    rows = published(self.name)["rows"].values()
    return any(column.key in row for row in rows)


def _grouped(number: str) -> str:
  """A printed whole number with commas."""
  return f"{int(number):,}" if number.isdigit() else number


def _line(cells: Iterable[str]) -> str:
  return f"| {' | '.join(cells)} |"
