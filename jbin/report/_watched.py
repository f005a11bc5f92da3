"""What the page shows of the low-bit layers of a run that was watched."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

from jbin.report import _chart, _numbers, _read

WIDTH, HEIGHT = 144, 40
# Half pixels: whole numbers are fine enough then.
_POINTS = 24
_EDGE = 3
_ROWS = 150
# Rows of all runs together.
_WEIGHT = 5
# How much longer a row is than one of the layer table.


@dataclasses.dataclass(frozen=True)
class Cell:
  """The last value of a number, and its way there."""

  figure: str
  path: str
  # Of an SVG of WIDTH x HEIGHT; empty where there is no way to show.
  title: str
  v: float
  # To sort by.
  bad: bool = False


@dataclasses.dataclass(frozen=True)
class Row:
  """A layer: its cells by column, None where it has no such number."""

  name: str
  bits: str
  cells: Sequence[Cell | None]


@dataclasses.dataclass(frozen=True)
class Table:
  """The low-bit layers of a run, and how many more there are."""

  columns: Sequence[str]
  rows: Sequence[Row]
  whole: Sequence[Cell | None]
  # All layers together.
  cut: int
  steps: str


def share(v: float) -> str:
  """12.3 %, 0.0041 %: three digits, however small."""
  return f"{100 * v:.3g} %" if math.isfinite(v) else _numbers.value(v)


def _three(v: float) -> str:
  return f"{v:.3g}" if math.isfinite(v) else _numbers.value(v)


@dataclasses.dataclass(frozen=True)
class _Column:
  title: str
  name: str
  form: Callable[[float], str]
  low: float | None = None
  high: float | None = None
  # The range of the way; None: that of the values.


_COLUMNS = (
  _Column("Flips", "flip_ratio", share, 0.0),
  _Column("Beyond clip", "beyond_clip", share, 0.0),
  _Column("Zero gradient", "zero_gradient", share, 0.0),
  _Column("Input +1", "input_share", share, 0.0, 1.0),
  _Column("Estimating error", "estimating_error", _three),
  _Column("Gradient instability", "gradient_instability", _three, 0.0),
  _Column("Scale", "scale_mean", _three),
)


def tables(runs: Sequence[_read.Run]) -> list[Table | None]:
  """A table for each run; None for one that was not watched."""
  budget = _ROWS
  found: list[Table | None] = []
  for run in runs:
    found.append(_table(run, max(budget, 0)) if run.watched else None)
    budget -= len(run.watched)
  return found


def weight(found: Sequence[Table | None]) -> int:
  """How many rows of the layer table the tables are as long as."""
  return sum(_WEIGHT * len(table.rows) for table in found if table)


def _table(run: _read.Run, budget: int) -> Table:
  shown = [
    column
    for column in _COLUMNS
    if any(column.name in layer for layer in run.watched.values())
  ]
  order = {str(row["name"]): i for i, row in enumerate(run.cost["layers"])}
  names = sorted(run.watched, key=lambda name: order.get(name, len(order)))
  curves = {
    name: curve for (kind, name), curve in run.curves.items() if kind == "train"
  }
  steps = [
    step
    for layer in run.watched.values()
    for curve in layer.values()
    for step in curve.steps
  ]
  return Table(
    columns=[column.title for column in shown],
    rows=[_row(name, run.watched[name], shown) for name in names[:budget]],
    whole=[_cell(curves, column) for column in shown],
    cut=max(len(names) - budget, 0),
    steps=_steps(min(steps), max(steps)),
  )


def _steps(first: int, last: int) -> str:
  if first == last:
    return f"step {_numbers.exact(first)}"
  return f"steps {_numbers.exact(first)} to {_numbers.exact(last)}"


def _row(
  name: str, layer: Mapping[str, _read.Curve], columns: Sequence[_Column]
) -> Row:
  widths = [layer[key].values[-1] for key in ("bits",) if key in layer]
  return Row(
    name,
    f"{widths[0]:.0f}" if widths else _numbers.NONE,
    [_cell(layer, column) for column in columns],
  )


def _cell(layer: Mapping[str, _read.Curve], column: _Column) -> Cell | None:
  curve = layer.get(column.name)
  if curve is None:
    return None
  last = curve.values[-1]
  one_sided = column.name == "input_share" and last in (0.0, 1.0)
  width = layer["input_bits"].values[-1] if "input_bits" in layer else 0
  title = f"{column.form(curve.values[0])} at first"
  if column.name == "scale_mean" and "scale_min" in layer:
    ends = [layer[key].values[-1] for key in ("scale_min", "scale_max")]
    title += f", now {_three(ends[0])} to {_three(ends[1])}"
  return Cell(
    figure=column.form(last),
    path=_way(curve, column),
    title=title,
    v=float(f"{last:.6g}") if math.isfinite(last) else -1.0,
    bad=not math.isfinite(last) or (one_sided and width == 1),
  )


def _way(curve: _read.Curve, column: _Column) -> str:
  """An SVG path; empty for one point."""
  thinned = _chart.thin(curve, _POINTS)
  finite = [v for v in thinned.values if math.isfinite(v)]
  if len(finite) < 2:
    return ""
  low = min(finite) if column.low is None else column.low
  high = max(finite) if column.high is None else column.high
  if high <= low:  # a straight line: at the bottom if it is 0, else halfway
    high = low + 1 if not low else low + abs(low)
    low = low if not low else low - abs(low)
  x = _chart.Axis(thinned.steps[0], thinned.steps[-1], _EDGE, WIDTH - _EDGE)
  y = _chart.Axis(low, high, HEIGHT - _EDGE, _EDGE)
  parts: list[str] = []
  pen_down = False
  for step, v in zip(thinned.steps, thinned.values, strict=True):
    if math.isfinite(v):
      mark = " " if pen_down else "M"
      parts.append(f"{mark}{x(step):.0f} {y(v):.0f}")
    pen_down = math.isfinite(v)
  return "".join(parts)
