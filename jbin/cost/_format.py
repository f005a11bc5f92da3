"""A report as text: summary, table, CSV, Markdown and JSON rows."""

from __future__ import annotations

import csv
import io
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from jbin import tables
from jbin.cost import _memory, _sections
from jbin.cost._record import Record
from jbin.cost._values import Shape

if TYPE_CHECKING:
  from jbin.cost._report import Report

_MIN_NAME = 12  # columns that a layer's name always gets
_WHOLE_NAME = 40  # columns that it gets before any shape
_WIDEST = 100  # of lines of text, however wide the terminal is
amount = _sections.amount


def shapes(inputs: Sequence[Shape]) -> list[Any]:
  """The shape of the one input, or the shapes of several."""
  listed = [list(shape) for shape in inputs]
  return listed[0] if len(listed) == 1 else listed


def layers(report: Report) -> list[dict[str, Any]]:
  """The rows of `layers` in the JSON form.

  `weight_bytes` is that of the weights at their widest use, and 0 for one that
  an earlier layer has: the sum over layers is that of the report, but for what
  only branches that are not counted multiply.
  """
  width = _memory.widths(report)
  rows: list[dict[str, Any]] = []
  for record in report.layers:
    paths = [path for path in record.params if path in width]
    n = sum(
      report.parameters[p].size * width.pop(p) for p in dict.fromkeys(paths)
    )
    rows.append(
      layer(record) | {"weight_bytes": n // 8 if n % 8 == 0 else n / 8}
    )
  return rows


def layer(record: Record) -> dict[str, Any]:
  """One row of `layers`, as far as the record knows it."""
  return {
    "name": record.name,
    "kind": record.kind,
    "in_shape": list(record.in_shape),
    "out_shape": list(record.out_shape),
    "kernel": list(record.kernel),
    "strides": None if record.strides is None else list(record.strides),
    "padding": record.padding,
    "groups": record.groups,
    "bias": record.bias,
    "macs": record.macs,
    "lhs_bits": record.lhs_bits,
    "rhs_bits": record.rhs_bits,
    "ace": record.ace,
    "weights": record.weights,
    "flags": list(record.flags),
    "repeats": record.repeats,
    "phase": record.phase,
    "gradient_of": record.gradient_of,
    "devices": record.devices,
  }


def summary(report: Report) -> str:
  """Totals, what is flagged and what is left out."""
  return _text(report, _sections.summary(report), _WIDEST)


def _text(
  report: Report, found: Iterable[_sections.Section], width: int
) -> str:
  inputs = ", ".join(_sections.shape(s) for s in report.inputs if s)
  head = (report.model, inputs, f"for {report.counted_for}")
  lines = ["  ".join(filter(None, head))]
  for section in found:
    if drawn := list(_plain(section, width)):
      lines += ["", *drawn]
  return "\n".join(lines)


def _plain(section: _sections.Section, width: int) -> Iterator[str]:
  """A section for the terminal; what nobody should pass over comes last."""
  if not (len(section.rows) > 1 or section.lines or section.loud):
    return
  if section.title:
    yield f"{section.title}:"
  if len(section.rows) > 1:
    indent = "  " if section.title else ""
    drawn = tables.align(section.rows, section.sides)
    yield from (f"{indent}{line}" for line in drawn)
  for line in (*section.lines, *section.loud):
    yield from textwrap.wrap(
      line,
      width,
      initial_indent="  " if section.title else "",
      subsequent_indent="    ",
      break_on_hyphens=False,
    ) or [""]


def table(report: Report, width: int | None = None) -> str:
  """The summary below one line for each layer and each named operation."""
  width = width or shutil.get_terminal_size((100, 24)).columns
  found = [*_sections.summary(report), _sections.chips(report)]
  found.append(_sections.conventions(report))
  if len(report.layers) == 0:
    return _text(report, found, min(width, _WIDEST))
  lines = _layer_lines(report, width)
  marked = _sections.elementwise(report)
  if len(marked.rows) > 1:
    lines += ["", *_plain(marked, width)]
  return "\n".join([*lines, "", _text(report, found, min(width, _WIDEST))])


def _layer_lines(report: Report, width: int) -> list[str]:
  """The layers; shapes go first where the terminal is narrow."""
  rows = _sections.layers(report)
  kept, others = [list(row) for row in rows], 0
  whole = min(max(len(row[0]) for row in rows), _WHOLE_NAME)
  for drop in ((), (2,), (2, 3), (1, 2, 3), (1, 2, 3, 4)):
    shapes = {2, 3} - {*drop}
    kept = [[c for i, c in enumerate(r) if i not in drop] for r in rows]
    others = sum(max(map(len, column)) for column in zip(*kept, strict=True))
    others += 2 * (len(kept[0]) - 1) - max(len(r[0]) for r in kept)
    if others + (whole if shapes else _MIN_NAME) <= width:
      break
  space = max(_MIN_NAME, width - others)
  for row in kept:
    if len(row[0]) > space:  # the end of a path says more than its start
      row[0] = "…" + row[0][1 - space :]
  lines = tables.align(kept, "<" * (len(kept[0]) - 2) + ">>")
  lines.insert(1, "-" * max(map(len, lines)))
  return lines


def csv_text(report: Report) -> str:
  """One line for each layer; shapes are joined by x."""
  out = io.StringIO()
  writer: csv.DictWriter[str] | None = None
  for row in layers(report):
    for key in ("in_shape", "out_shape", "kernel", "strides"):
      row[key] = "x".join(map(str, row[key] or ()))
    row["flags"] = " ".join(row["flags"])
    if writer is None:
      writer = csv.DictWriter(out, list(row), lineterminator="\n")
      writer.writeheader()
    writer.writerow(row)
  return out.getvalue()


def markdown(report: Report) -> str:
  """The totals, the bit pairs, the layers and what is left out."""
  lines = [f"## {tables.escaped(report.model)}", ""]
  lines += [f"All figures are for {report.counted_for}.", ""]
  body = _sections.Section("Layers", _sections.layers(report), _sections.SIDES)
  found = [*_sections.summary(report), _sections.chips(report)]
  found += [_sections.conventions(report), _sections.elementwise(report), body]
  for section in found:
    lines += _marked(section)
  return "\n".join(lines).rstrip() + "\n"


def _marked(section: _sections.Section) -> Iterator[str]:
  """A section as Markdown, what nobody should pass over in bold."""
  if not (len(section.rows) > 1 or section.lines or section.loud):
    return
  if section.title:
    yield from (f"### {section.title}", "")
  if section.loud:
    yield from (f"* **{tables.escaped(line)}**" for line in section.loud)
    yield ""
  if len(section.rows) > 1:
    yield from (*tables.pipes(section.rows, section.sides), "")
  if section.lines:
    yield from (f"* {tables.escaped(line.strip())}" for line in section.lines)
    yield ""
