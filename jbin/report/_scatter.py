"""Accuracy against ACE: the runs of the page among published systems."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jbin.report import _chart, _layers, _main, _numbers, _read

_FILE = Path(__file__).parent / "published.json"
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 16, 14, 40
_LETTER = 0.6
# Width of a letter in font sizes, on average.
_DOT = 7
_IMAGE = [224, 224, 3]


@dataclasses.dataclass(frozen=True)
class System:
  """A published system; figures that nobody gave are None."""

  name: str
  top1: str
  ace: float | None
  # In ones, not in 1e9.
  ops: float | None
  origin: str
  accuracies: Sequence[float]
  # Of `top1`, which may be a range: its ends.


@dataclasses.dataclass(frozen=True)
class Mark:
  """A dot with its label, or a line up from the axis without an accuracy."""

  x: float
  y: float | None
  label: str
  at: tuple[float, float, str] | None
  # Where the label begins, or ends; None: there is no room.
  colour: int | None
  # Of a run; None: published.
  title: str


@dataclasses.dataclass(frozen=True)
class Plot:
  """One drawing; pages have a wide and a narrow one."""

  width: int
  height: int
  x_ticks: Sequence[_chart.Tick]
  y_ticks: Sequence[_chart.Tick]
  marks: Sequence[Mark]
  frame: tuple[int, int, int, int]


@functools.cache
def published() -> tuple[System, ...]:
  """The systems of `published.json`."""
  if not _FILE.exists():
    return ()
  read = json.loads(_FILE.read_text(encoding="utf-8"))
  found: list[Mapping[str, Any]] = (
    read["systems"] if isinstance(read, dict) else read
  )
  return tuple(_system(row) for row in found)


def _system(row: Mapping[str, Any]) -> System:
  top1 = row.get("top1")
  ends = top1 if isinstance(top1, list) else [] if top1 is None else [top1]
  values = [float(v) for v in ends]  # pyright: ignore[reportUnknownVariableType]
  ace, ops = row.get("ace"), row.get("ops")
  return System(
    name=str(row["name"]),
    top1=" to ".join(f"{v:.1f}" for v in values) or _numbers.NONE,
    ace=None if ace is None else round(float(ace) * 1e9),
    ops=None if ops is None else round(float(ops) * 1e8),
    origin=str(row.get("origin", "")),
    accuracies=values,
  )


@dataclasses.dataclass(frozen=True)
class _Raw:
  ace: float
  top1: float | None
  # In percent.
  label: str
  colour: int | None


def plots(runs: Sequence[_read.Run], colours: int) -> list[Plot]:
  """The wide and the narrow drawing; none if there is nothing to compare."""
  raw = [
    _Raw(run.ace, _percent(run), run.name, i % colours)
    for i, run in enumerate(runs)
    if run.ace > 0 and _of_one_example(run)
  ]
  raw += [
    _Raw(s.ace, sum(s.accuracies) / len(s.accuracies), s.name, None)
    for s in published()
    if s.ace is not None and s.accuracies
  ]
  if len({r.colour is None for r in raw}) < 2:
    return []  # nothing published, or training steps alone
  return [_plot(raw, 1000, 420, 13), _plot(raw, 360, 420, 12)]


def _of_one_example(run: _read.Run) -> bool:
  return not run.cost.get("training") and run.cost.get("batch") in (None, 1)


def _percent(run: _read.Run) -> float | None:
  accuracy = run.final("accuracy")
  if _main.reads_text(run):
    return None  # next tokens found are not images recognized
  if accuracy is None or not math.isfinite(accuracy):
    return None
  return 100 * accuracy


def others(runs: Sequence[_read.Run]) -> list[str]:
  """What runs are of, if it is not ImageNet at the size that all publish."""
  names: list[str] = []
  for run in runs:
    shape = run.cost.get("input")
    data: Mapping[str, Any] = run.config.get("data") or {}
    name = str(data.get("dataset") or data.get("name") or "")
    if name and "imagenet" not in name.lower():
      names.append(name)
    elif shape and list(shape) != _IMAGE:
      names.append(f"an input of {_layers.shape(shape)}")
  return list(dict.fromkeys(names))


def _plot(raw: Sequence[_Raw], width: int, height: int, font: int) -> Plot:
  aces = [r.ace for r in raw]
  tops = [r.top1 for r in raw if r.top1 is not None]
  x = _chart.Axis(min(aces) / 1.8, max(aces) * 1.8, _LEFT, width - _RIGHT, True)
  low, high = min(tops), max(tops)
  pad = max(0.08 * (high - low), 1.0)
  y = _chart.Axis(low - pad, min(high + pad, 100), height - _BOTTOM, _TOP)
  dots = [(x(r.ace), None if r.top1 is None else y(r.top1)) for r in raw]
  boxes = [
    (px - _DOT, py - _DOT, px + _DOT, py + _DOT)
    for px, py in dots
    if py is not None
  ]
  lines = [
    (px - 3, _TOP, px + 3, height - _BOTTOM) for px, py in dots if py is None
  ]
  marks: list[Mark] = []
  for r, (px, py) in zip(raw, dots, strict=True):
    where = (r, (px, py), boxes, (width, height), font)
    # Rather across a line than not at all.
    at = _room(*where, lines) or _room(*where)
    title = f"{r.label}: {_numbers.short(r.ace)} ACE"
    title += "" if r.top1 is None else f", {r.top1:.1f} %"
    marks.append(Mark(px, py, r.label, at, r.colour, title))
  return Plot(
    width,
    height,
    x.ticks(_numbers.tick, 7 if width > 600 else 4),
    y.ticks(lambda v: f"{v:g} %", 6),
    marks,
    (_LEFT, _TOP, _RIGHT, _BOTTOM),
  )


_Box = tuple[float, float, float, float]


def _room(
  r: _Raw,
  dot: tuple[float, float | None],
  taken: list[_Box],
  size: tuple[int, int],
  font: int,
  lines: Sequence[_Box] = (),
) -> tuple[float, float, str] | None:
  """Where a label meets nothing; it is then taken."""
  px, py = dot
  width = _LETTER * font * len(r.label)
  if py is None:  # a line: its label stands at its upper end
    spots = [
      (px + dx, _TOP + font * (1 + row * 1.4))
      for row in range(6)
      for dx in (8, -8 - width)
    ]
  else:
    near = [(12.0, 0.35), (-12 - width, 0.35)]  # beside it, then over and under
    near += [
      (-width * share, dy)
      for dy in (-0.9, 1.6, -2.1, 2.8)
      for share in (0.5, 0.2, 0.8, 0.0, 1.0)
    ]
    spots = [(px + dx, py + dy * font) for dx, dy in near]
  for sx, sy in spots:
    box = (sx - 2, sy - font, sx + width + 2, sy + font * 0.3)
    inside = (
      box[0] > _LEFT + 2
      and box[2] < size[0] - 2
      and box[1] > 0
      and box[3] < size[1] - _BOTTOM
    )
    mine = (px - _DOT, (py or 0) - _DOT, px + _DOT, (py or 0) + _DOT)
    if inside and not any(_meet(box, b) for b in (*taken, *lines) if b != mine):
      taken.append(box)
      if sx + width < px:  # it ends at the dot, however wide it turns out
        return round(sx + width, 1), round(sy, 1), "end"
      return round(sx, 1), round(sy, 1), "start"
  return None


def _meet(a: _Box, b: _Box) -> bool:
  return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
