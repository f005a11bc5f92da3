"""A report as text: summary, table, CSV, Markdown and JSON rows."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jbin.cost._record import Record
from jbin.cost._values import Shape

if TYPE_CHECKING:
  from jbin.cost._report import Report

_MIN_NAME = 12  # columns that a layer's name always gets
_FLAG = "*"


def shapes(inputs: Sequence[Shape]) -> list[Any]:
  """The shape of the one input, or the shapes of several."""
  listed = [list(shape) for shape in inputs]
  return listed[0] if len(listed) == 1 else listed


def layer(record: Record) -> dict[str, Any]:
  """One row of `layers` in the JSON form."""
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
  }


def amount(n: float) -> str:
  """A number with a unit for reading: 4.22 G, 512."""
  for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
    if abs(n) >= size:
      return f"{n / size:.4g} {unit}"
  return f"{n:.4g}"


def summary(report: Report) -> str:
  """Totals, what is flagged and what is left out."""
  inputs = ", ".join(map(_shape, report.inputs))
  lines = [f"{report.model}  {inputs}".rstrip(), ""]
  lines += _align(_total_rows(report), "<>>")
  if report.macs:
    rows = [("bits (act x weight)", "MACs", "ACE", "share of ACE")]
    rows += _pair_rows(report)
    lines += ["", *_align(rows, "<>>>")]
  if flagged := report.flagged:
    said = (
      f"{_FLAG} {len(flagged)} of {len(report.layers)} products have codes"
      " whose scale varies along the contraction: ace counts their bits,"
      " ace_strict counts float."
    )
    lines += ["", said, f"  {', '.join(_shortened(flagged))}"]
  rows = [(name, f"{n:,}") for name, n in report.left_out.items() if n]
  if rows:
    lines += ["", "Left out of these figures:"]
    lines += [f"  {line}" for line in _align(rows, "<>")]
  for row in report.not_counted:
    lines.append(
      f"  NOT COUNTED: {row.primitive} at {row.where or 'the top'}, operands"
      f" {', '.join(str(list(s)) for s in row.shapes)}: {row.reason}"
    )
  lines += [f"  Note: {note}" for note in report.notes]
  return "\n".join(lines)


def table(report: Report, width: int | None = None) -> str:
  """The summary below one line for each layer and each named operation."""
  width = width or shutil.get_terminal_size((100, 24)).columns
  head = ("layer", "kind", "in", "out", "kernel", "bits", "MACs", "ACE")
  rows = [head, *(_layer_row(record) for record in report.layers)]
  if len(rows) == 1:
    return summary(report)
  # Shapes go first where the terminal is narrow.
  for drop in ((), (2,), (2, 3), (1, 2, 3), (1, 2, 3, 4)):
    kept = [[c for i, c in enumerate(r) if i not in drop] for r in rows]
    others = sum(max(map(len, column)) for column in zip(*kept, strict=True))
    others += 2 * (len(kept[0]) - 1) - max(len(r[0]) for r in kept)
    if others + _MIN_NAME <= width:
      break
  space = max(_MIN_NAME, width - others)
  for row in kept:
    if len(row[0]) > space:  # the end of a path says more than its start
      row[0] = "…" + row[0][1 - space :]
  numbers = 2 if len(kept[0]) > 2 else 1
  sides = "<" * (len(kept[0]) - numbers) + ">" * numbers
  lines = _align(kept, sides)
  lines.insert(1, "-" * max(map(len, lines)))
  if report.elementwise:
    rows = [("element-wise, by name", "scalar operations")]
    rows += [(name, f"{n:,}") for name, n in report.elementwise.items()]
    lines += ["", *_align(rows, "<>")]
  return "\n".join([*lines, "", summary(report)])


def csv_text(report: Report) -> str:
  """One line for each layer; shapes are joined by x."""
  out = io.StringIO()
  writer: csv.DictWriter[str] | None = None
  for record in report.layers:
    row = layer(record)
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
  lines = [f"## {_escaped(report.model)}", ""]
  lines += _pipes([("convention", "exact", ""), *_total_rows(report)], "<>>")
  rows = [("bits (act x weight)", "MACs", "ACE", "share of ACE")]
  lines += ["", *_pipes([*rows, *_pair_rows(report)], "<>>>"), ""]
  head = ("layer", "kind", "in", "out", "kernel", "bits", "MACs", "ACE")
  body = [_layer_row(record) for record in report.layers]
  lines += [*_pipes([head, *body], "<<<<<<>>"), ""]
  rows = [("left out", "amount")]
  rows += [(name, f"{n:,}") for name, n in report.left_out.items()]
  rows += [
    (f"**not counted: {row.primitive}** {row.reason}", f"{row.repeats:,}")
    for row in report.not_counted
  ]
  rows += [
    (f"element-wise: {k}", f"{n:,}") for k, n in report.elementwise.items()
  ]
  lines += _pipes(rows, "<>")
  lines += ["", *(f"* {note}" for note in report.notes)]
  return "\n".join(lines).rstrip() + "\n"


def _total_rows(report: Report) -> list[tuple[str, str, str]]:
  figures: list[tuple[str, float]] = [
    ("ACE", report.ace),
    ("ACE, strict", report.ace_strict),
    ("MACs", sum(report.macs.values())),
    ("CPU64, max(bits)/64", report.total("cpu64_maxbits_64")),
    ("CPU64, binary/64", report.total("cpu64_binary_64th_rest_1")),
    ("weights, bytes", report.weight_bytes),
    ("parameters", report.params["total"]),
  ]
  return [(name, _exact(n), amount(n)) for name, n in figures]


def _exact(n: float) -> str:
  return f"{int(n):,}" if n == int(n) else f"{n:,}"


def _pair_rows(report: Report) -> list[tuple[str, ...]]:
  whole = report.ace or 1
  pairs = sorted(report.macs.items(), reverse=True)
  return [
    (f"{i} x {j}", f"{n:,}", f"{n * i * j:,}", f"{n * i * j / whole:.1%}")
    for (i, j), n in pairs
  ]


def _layer_row(record: Record) -> tuple[str, ...]:
  mark = _FLAG if record.flags else ""
  return (
    record.name,
    record.kind,
    _shape(record.in_shape),
    _shape(record.out_shape),
    _shape(record.kernel),
    f"{record.lhs_bits}x{record.rhs_bits}{mark}",
    f"{record.macs:,}",
    f"{record.ace:,}",
  )


def _shape(shape: Shape) -> str:
  return "x".join(map(str, shape)) or "scalar"


def _shortened(names: list[str], most: int = 8) -> list[str]:
  if len(names) <= most:
    return names
  return [*names[:most], f"and {len(names) - most} more"]


def _align(rows: Sequence[Sequence[str]], sides: str) -> list[str]:
  """Rows as lines with columns of equal width; `sides` is < or > for each."""
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return [
    "  ".join(
      f"{cell:{side}{n}}"
      for cell, side, n in zip(row, sides, widths, strict=True)
    ).rstrip()
    for row in rows
  ]


def _pipes(rows: Sequence[Sequence[str]], sides: str) -> list[str]:
  rule = ["---" if side == "<" else "---:" for side in sides]
  head, *body = [[_escaped(cell) for cell in row] for row in rows]
  return [f"| {' | '.join(row)} |" for row in (head, rule, *body)]


def _escaped(text: str) -> str:
  return text.replace("|", "\\|").replace("\n", " ")
