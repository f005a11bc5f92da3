"""A difference of cost reports as text: terminal, Markdown, CSV."""

from __future__ import annotations

import csv
import io
import shutil
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

from jbin import tables
from jbin.report import _diff, _numbers

_MIN_NAME = 16  # columns that a layer's name always gets


def table(found: _diff.Diff, width: int | None = None) -> str:
  """The totals, and one line for each layer that differs.

  Args:
    found: the difference.
    width: characters of a line; by default that of the terminal.
  """
  width = width or shutil.get_terminal_size((100, 24)).columns
  lines = [f"A  {found.names[0]}", f"B  {found.names[1]}"]
  lines += [f"{counted_for(found)}.", ""]
  for line in warnings(found):
    lines += textwrap.wrap(
      line, width, subsequent_indent="  ", break_on_hyphens=False
    )
  lines += [""] if found.uncounted else []
  lines += tables.align([("", "A", "B", "B is"), *_totals(found)], "<>>>")
  for line in unpriced(found):
    lines += textwrap.wrap(
      line, width, subsequent_indent="  ", break_on_hyphens=False
    )
  lines += ["", _counts(found)]
  if found.changed:
    narrow = _fitted(found, width)
    drawn = tables.align(narrow, "<<" + ">" * (len(narrow[0]) - 2))
    drawn.insert(1, "-" * max(map(len, drawn)))
    lines += ["", *drawn]
  return "\n".join(lines)


def counted_for(found: _diff.Diff) -> str:
  """Of how much data the figures are, of both sides if that differs."""
  a, b = found.counted_for
  if a == b:
    return f"Both for {a}"
  return f"NOT FOR THE SAME: A is for {a}, B for {b}"


def warnings(found: _diff.Diff) -> list[str]:
  """What no figure has, and which side it is in."""
  return [
    f"NOT COUNTED in {sides}: {row['primitive']} at"
    f" {row.get('where') or 'the top'}: {row['reason']}{_each(row)}"
    for sides, row in found.uncounted
  ]


def _each(row: Mapping[str, Any]) -> str:
  n = row.get("macs_per_trip")
  return f"; {n:,} MACs each time" if n else ""


def unpriced(found: _diff.Diff) -> list[str]:
  """Which MACs some totals price 0."""
  return [
    f"{said} are 0 in {'; '.join(titles)}." for said, titles in found.unpriced
  ]


_HEAD = ("layer", "", "bits", "MACs", "ACE", "bytes")
_MARKS = {"added": "+", "removed": "-", "changed": "~"}


def _totals(found: _diff.Diff) -> list[tuple[str, str, str, str]]:
  return [
    (
      f"{t.title}, {t.shown_unit}" if t.shown_unit else t.title,
      _numbers.exact(t.a),
      _numbers.exact(t.b),
      t.ratio,
    )
    for t in found.totals
  ]


def _counts(found: _diff.Diff) -> str:
  said = [
    f"{n:,} {change} {_MARKS.get(change, '')}".rstrip()
    for change, n in found.counts.items()
    if n
  ]
  return f"Layers: {', '.join(said) or 'none'}."


def _layers(found: _diff.Diff, brief: bool = False) -> list[tuple[str, ...]]:
  form = _numbers.short if brief else _numbers.exact
  return [
    (
      f"{line.name} ({line.part})" if _phased(line) else line.name,
      _MARKS.get(line.change, "~"),
      *(_way(line, key, form) for key in ("bits", "macs", "ace", "bytes")),
    )
    for line in found.changed
  ]


def _phased(line: _diff.Line) -> bool:
  return line.phase not in ("", "forward")


def _way(line: _diff.Line, key: str, form: Callable[[float], str]) -> str:
  """A figure of both sides, once where it is the same."""

  def say(side: _diff.Side) -> str:
    if key == "bits":
      return f"{side.bits[0]}x{side.bits[1]}"
    return form(getattr(side, key))

  sides = [say(side) for side in (line.a, line.b) if side is not None]
  return " -> ".join(dict.fromkeys(sides))


def _fitted(found: _diff.Diff, width: int) -> list[tuple[str, ...]]:
  """All digits if they fit, else three; then fewer columns, cut names."""
  rows: list[tuple[str, ...]] = []
  others = 0
  for brief, drop in (
    (False, ()),
    (True, ()),
    (True, (5,)),
    (True, (3, 5)),
    (True, (3, 4, 5)),
  ):
    whole = [_HEAD, *_layers(found, brief)]
    rows = [tuple(c for i, c in enumerate(r) if i not in drop) for r in whole]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    others = sum(widths[1:]) + 2 * (len(widths) - 1)
    if others + min(widths[0], 2 * _MIN_NAME) <= width:
      break
  space = max(_MIN_NAME, width - others)
  return [
    (row[0] if len(row[0]) <= space else "…" + row[0][1 - space :], *row[1:])
    for row in rows
  ]


def markdown(found: _diff.Diff) -> str:
  """The same as Markdown tables."""
  a, b = (tables.escaped(name) for name in found.names)
  lines = [f"## {a} → {b}", "", f"{tables.escaped(counted_for(found))}.", ""]
  if hidden := warnings(found):
    lines += [*(f"* **{tables.escaped(line)}**" for line in hidden), ""]
  head = ("total", found.names[0], found.names[1], "change")
  lines += tables.pipes([head, *_totals(found)], "<>>>")
  if free := unpriced(found):
    lines += ["", *(f"* {tables.escaped(line)}" for line in free)]
  lines += ["", _counts(found)]
  rows = _layers(found)
  if rows:
    lines += ["", *tables.pipes([_HEAD, *rows], "<<>>>>")]
  return "\n".join(lines) + "\n"


def csv_text(found: _diff.Diff) -> str:
  """One line for each layer that differs."""
  out = io.StringIO()
  fields = ("bits", "macs", "ace", "weight_bytes", "kernel")
  writer = csv.writer(out, lineterminator="\n")
  sides = [f"{side}_{field}" for side in "ab" for field in fields]
  writer.writerow(["name", "phase", "gradient", "change", *sides])
  for line in found.changed:
    both = [{} if s is None else s.to_json() for s in (line.a, line.b)]
    cells = [side.get(field) for side in both for field in fields]
    where = [line.name, line.phase, line.gradient]
    writer.writerow([*where, line.change, *cells])
  return out.getvalue()
