"""What the template `diff.html` shows."""

from __future__ import annotations

import dataclasses
from typing import Any

from jbin.report import _diff, _diff_text, _layers, _numbers

_ROWS = 2000
# Lines that differ; the page stays below 1 MB.


@dataclasses.dataclass(frozen=True)
class Cell:
  """A figure of both sides, and what it is sorted by."""

  text: str
  v: float
  # Of B less A.
  way: str
  # "up", "down" or "": the colour of the change.


@dataclasses.dataclass(frozen=True)
class Row:
  """A layer that differs."""

  name: str
  phase: str
  change: str
  detail: str
  # What changed.
  bits: list[tuple[str, str]]
  # (colour, bit pair) of A and of B, one if they are the same.
  cells: list[Cell]
  kernel: str


def page(found: _diff.Diff) -> dict[str, Any]:
  """The variables of the template."""
  changed = found.changed
  rows = [_row(line) for line in changed[:_ROWS]]
  return {
    "title": f"{found.names[0]} → {found.names[1]}",
    "names": found.names,
    "models": found.models,
    "counted_for": _diff_text.counted_for(found),
    "unlike": found.counted_for[0] != found.counted_for[1],
    "uncounted": found.uncounted,
    "unpriced": _diff_text.unpriced(found),
    "cards": _cards(found),
    "totals": [
      (
        t.title,
        t.shown_unit,
        _both(t.a, t.unit),
        _both(t.b, t.unit),
        t.ratio,
        _way(t),
      )
      for t in found.totals
    ],
    "counts": found.counts,
    "rows": rows,
    "phased": len({row.phase for row in rows} - {""}) > 1,
    "cut": len(changed) - len(rows),
    "bars": _bars(found),
  }


def _both(n: float, unit: str) -> tuple[str, str]:
  """Three digits, and all of them where these are more."""
  whole = _numbers.exact(n)
  if unit == "pJ":
    return _numbers.joules(n), f"{whole} pJ"
  brief = _numbers.size(n) if unit == "bytes" else _numbers.short(n)
  return brief, "" if brief.removesuffix(" B") == whole else whole


def _colour(a: float, b: float) -> str:
  return "" if a == b else "up" if b > a else "down"


def _way(t: _diff.Total) -> str:
  return _colour(t.a, t.b) if t.a and t.b else ""


def _cards(found: _diff.Diff) -> list[tuple[str, str, str, str]]:
  """Label, ratio, note, colour."""
  names = (
    ("ace", "ACE", _numbers.short),
    ("macs", "MACs", _numbers.short),
    ("weight_bytes", "Weights", _numbers.size),
  )
  totals = {t.name: t for t in found.totals}
  return [
    (
      label,
      totals[name].ratio,
      f"{form(totals[name].a)} → {form(totals[name].b)}",
      _way(totals[name]),
    )
    for name, label, form in names
    if name in totals
  ]


def _bars(found: _diff.Diff) -> list[tuple[str, list[tuple[str, str, float]]]]:
  """For each figure of the cards both sides, as shares of the larger."""
  totals = {t.name: t for t in found.totals}
  bars: list[tuple[str, list[tuple[str, str, float]]]] = []
  for name, label, form in (
    ("ace", "ACE", _numbers.short),
    ("macs", "MACs", _numbers.short),
    ("weight_bytes", "Weights", _numbers.size),
    ("total_bytes", "All at rest", _numbers.size),
  ):
    if name in totals:
      t = totals[name]
      most = max(t.a, t.b) or 1
      pairs = zip(found.names, (t.a, t.b), strict=True)
      bars.append((label, [(who, form(n), n / most) for who, n in pairs]))
  return bars


def _row(line: _diff.Line) -> Row:
  sides = [side for side in (line.a, line.b) if side is not None]
  change = line.change
  bits = [(_layers.tone(*s.bits), _numbers.pair(s.bits)) for s in sides]
  return Row(
    name=line.name,
    phase=line.part,
    change=change if change in ("added", "removed") else "changed",
    detail=change,
    bits=list(dict.fromkeys(bits)),
    cells=[_cell(line, key) for key in ("macs", "ace", "bytes")],
    kernel=" → ".join(dict.fromkeys(s.kernel for s in sides)),
  )


def _cell(line: _diff.Line, key: str) -> Cell:
  figures: list[float | None] = [
    None if side is None else getattr(side, key) for side in (line.a, line.b)
  ]
  a, b = ((0 if n is None else n) for n in figures)
  texts = [_numbers.exact(n) for n in figures if n is not None]
  return Cell(" → ".join(dict.fromkeys(texts)), b - a, _colour(a, b))
