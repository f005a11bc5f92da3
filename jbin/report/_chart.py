"""Geometry of the line and point charts; the template draws it as SVG."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

from jbin.report._read import Curve

WIDTH, HEIGHT = 460, 270
LEFT, RIGHT, TOP, BOTTOM = 56, 18, 12, 36
_POINTS = 240
# More than this in one curve cannot be told apart at this width.
_LETTER, _LINE = 8, 14
# About what a letter of a label takes, and its line.
_SHIFTS = (-12, 22, -27, 37)
# Of labels from their dots, the best first.


@dataclasses.dataclass(frozen=True)
class Tick:
  """A mark on an axis: where, and what it says."""

  at: float
  label: str


@dataclasses.dataclass(frozen=True)
class Line:
  """A curve: its SVG path, colour number, thickness class and last point."""

  path: str
  colour: int
  role: str
  # "test" or "train".
  title: str
  end: tuple[float, float] | None


@dataclasses.dataclass(frozen=True)
class Point:
  """A labelled dot."""

  x: float
  y: float
  colour: int
  label: str
  title: str
  anchor: str
  # Which end of the label is at the dot: "start", "middle" or "end".
  dy: int = -12
  # From the dot to the line that the label stands on.


@dataclasses.dataclass(frozen=True)
class Chart:
  """Everything that the template needs to draw one chart."""

  title: str
  note: str
  x_label: str
  x_ticks: Sequence[Tick]
  y_ticks: Sequence[Tick]
  lines: Sequence[Line] = ()
  points: Sequence[Point] = ()


@dataclasses.dataclass(frozen=True)
class Series:
  """A curve with the colour of its run; `role` is "test" or "train"."""

  curve: Curve
  colour: int
  role: str
  title: str


@dataclasses.dataclass(frozen=True)
class Axis:
  """A range of numbers laid on a range of pixels."""

  low: float
  high: float
  start: float
  end: float
  log: bool = False

  def __call__(self, v: float) -> float:
    share = (self._at(v) - self._at(self.low)) / self._span()
    return round(self.start + share * (self.end - self.start), 1)

  def _at(self, v: float) -> float:
    return math.log10(max(v, 1e-300)) if self.log else v

  def _span(self) -> float:
    return (self._at(self.high) - self._at(self.low)) or 1.0

  def ticks(self, label: Callable[[float], str], count: int = 5) -> list[Tick]:
    """About `count` round numbers of the range."""
    marks = _log_marks if self.log else _marks
    return [Tick(self(v), label(v)) for v in marks(self.low, self.high, count)]


def _marks(low: float, high: float, count: int) -> list[float]:
  rough = (high - low) / max(count, 1) or 1.0
  power = 10.0 ** math.floor(math.log10(rough))
  step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
  first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
  return [round(i * step, 12) for i in range(first, last + 1)]


def _log_marks(low: float, high: float, count: int) -> list[float]:
  powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
  for parts in ((1, 2, 5), (1, 3), (1,)):
    marks = [m * 10.0**p for p in powers for m in parts]
    marks = [m for m in marks if low * 0.999 <= m <= high * 1.001]
    if len(marks) <= count + 2:
      return marks
  stride = math.ceil(len(marks) / (count + 1))
  return marks[::stride]


def thin(curve: Curve, points: int = _POINTS) -> Curve:
  """The curve in at most `points` points, each the mean of its neighbours.

  The last point stays as it is: it is the figure in the table.
  """
  n = len(curve.steps)
  if n <= points:
    return curve
  width = math.ceil(n / (points - 1))
  bins = [slice(i, min(i + width, n - 1)) for i in range(0, n - 1, width)]
  steps = [curve.steps[b][len(curve.steps[b]) // 2] for b in bins]
  values = [sum(curve.values[b]) / len(curve.values[b]) for b in bins]
  return Curve((*steps, curve.steps[-1]), (*values, curve.values[-1]))


def lines(
  title: str,
  series: Sequence[Series],
  label: Callable[[float], str],
  share: bool = False,
  late: bool = False,
) -> Chart | None:
  """A chart of curves over the steps; None if nothing in them is finite.

  Args:
    title: what is measured.
    series: the curves, those in front last.
    label: how a tick of the y axis reads.
    share: the values are shares in [0, 1]: a linear axis up to 1. Otherwise
      the axis is logarithmic if the values are positive and far apart.
    late: the axis is about where the curves are once the first quarter is over,
      unless they are still far apart there.
  """
  series = [dataclasses.replace(s, curve=thin(s.curve)) for s in series]
  finite = [v for s in series for v in s.curve.values if math.isfinite(v)]
  if not finite:
    return None
  first = min(step for s in series for step in s.curve.steps)
  last = max(step for s in series for step in s.curve.steps)
  x = Axis(first, last if last > first else first + 1, LEFT, WIDTH - RIGHT)
  y = _share_axis(series) if share else _value_axis(finite)
  if late:
    y = _late_axis(series) or y
  drawn = [
    Line(_path(s.curve, x, y), s.colour, s.role, s.title, _end(s.curve, x, y))
    for s in series
  ]
  return Chart(
    title=title,
    note=" (logarithmic)" if y.log else "",
    x_label="step",
    x_ticks=x.ticks(lambda v: f"{v:,.0f}"),
    y_ticks=y.ticks(label),
    lines=drawn,
  )


def _value_axis(finite: Sequence[float]) -> Axis:
  low, high = min(finite), max(finite)
  log = low > 0 and high / low > 8
  if log:
    low, high = low / 1.15, high * 1.15
  else:
    low = min(low, 0.0)
    high += (high - low) * 0.05 or 1.0
  return Axis(low, high, HEIGHT - BOTTOM, TOP, log)


def _share_axis(series: Sequence[Series]) -> Axis:
  """Up to 1, from where the curves are once the first quarter is over."""
  low = math.floor(min(_late(series), default=0.0) * 20 - 0.4) / 20
  low = max(0.0, low) if low >= 0.5 else 0.0
  return Axis(low, 1.0, HEIGHT - BOTTOM, TOP)


def _late_axis(series: Sequence[Series]) -> Axis | None:
  """About the last three quarters of the curves; None if they are far apart."""
  values = _late(series)
  low, high = min(values, default=0.0), max(values, default=0.0)
  if low <= 0 or high > 4 * low:
    return None
  pad = max(0.1 * (high - low), 0.01 * high)
  return Axis(low - pad, high + pad, HEIGHT - BOTTOM, TOP)


def _late(series: Sequence[Series]) -> list[float]:
  """The finite values once the first quarter of a curve is over."""
  return [
    v
    for s in series
    for v in s.curve.values[len(s.curve.values) // 4 :]
    if math.isfinite(v)
  ]


def _path(curve: Curve, x: Axis, y: Axis) -> str:
  """An SVG path that breaks where a value is not finite."""
  parts: list[str] = []
  pen_down = False
  for step, v in zip(curve.steps, curve.values, strict=True):
    if math.isfinite(v):
      parts.append(f"{'L' if pen_down else 'M'}{x(step)} {y(v)}")
    pen_down = math.isfinite(v)
  return "".join(parts)


def _end(curve: Curve, x: Axis, y: Axis) -> tuple[float, float] | None:
  step, v = curve.steps[-1], curve.values[-1]
  return (x(step), y(v)) if math.isfinite(v) else None


def points(
  title: str,
  data: Sequence[tuple[float, float, str, int]],
  x_label: str,
  labels: tuple[Callable[[float], str], Callable[[float], str]],
  share: bool = True,
) -> Chart | None:
  """A chart of dots (x > 0 on a logarithmic axis, y, name, colour).

  Args:
    title: what is drawn.
    data: the dots.
    x_label: what the x axis has.
    labels: how a tick of each axis reads.
    share: y are shares in [0, 1]. Otherwise labels that would lie upon each
      other go apart.
  """
  data = [p for p in data if math.isfinite(p[1]) and p[0] > 0]
  if not data:
    return None
  xs, ys = [p[0] for p in data], [p[1] for p in data]
  x = Axis(min(xs) / 2.5, max(xs) * 2.5, LEFT, WIDTH - RIGHT, log=True)
  pad = max((max(ys) - min(ys)) * 0.5, 0.005)
  top = min(max(ys) + pad, 1.0) if share else max(ys) + pad
  y = Axis(min(ys) - pad, top, HEIGHT - BOTTOM, TOP)
  dots = [
    Point(
      x(px),
      y(py),
      colour,
      name,
      f"{name}: {labels[0](px)}, {labels[1](py)}",
      _anchor(x(px)),
    )
    for px, py, name, colour in data
  ]
  return Chart(
    title,
    "",
    x_label,
    x.ticks(labels[0], 4),
    y.ticks(labels[1], 4),
    points=dots if share else _apart(dots),
  )


def _apart(dots: Sequence[Point]) -> list[Point]:
  """The dots from the top, their labels out of each other's way."""
  found: list[Point] = []
  taken: list[tuple[float, float, float]] = []
  for dot in sorted(dots, key=lambda dot: dot.y):  # the upper keeps its place
    width = _LETTER * len(dot.label)
    left = dot.x - width * {"start": 0, "middle": 0.5, "end": 1}[dot.anchor]
    spots = [
      (left, left + width, dot.y + dy)
      for dy in _SHIFTS
      if TOP <= dot.y + dy <= HEIGHT - BOTTOM
    ]
    free = [s for s in spots if not any(_meet(s, other) for other in taken)]
    at = (free or spots or [(left, left + width, dot.y + dot.dy)])[0]
    taken.append(at)
    found.append(dataclasses.replace(dot, dy=round(at[2] - dot.y)))
  return found


def _meet(a: tuple[float, float, float], b: tuple[float, float, float]) -> bool:
  """Whether two labels (left, right, line) touch."""
  return a[0] < b[1] and b[0] < a[1] and abs(a[2] - b[2]) < _LINE


def _anchor(at: float) -> str:
  if at > WIDTH * 0.75:
    return "end"
  return "start" if at < WIDTH * 0.25 else "middle"
