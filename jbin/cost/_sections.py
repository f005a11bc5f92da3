"""The sections of a report, as rows that terminal and Markdown share."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from jbin import tables
from jbin.cost import _conventions, _left_out, _phases
from jbin.cost._chips import CHIPS
from jbin.cost._record import CONTRACTED, NotCounted, Record
from jbin.cost._values import Shape

if TYPE_CHECKING:
  from jbin.cost._report import Report

FLAG = "*"
amount = tables.amount


@dataclasses.dataclass(frozen=True)
class Section:
  """A table with a head, and lines of text below it; either may be missing."""

  title: str
  rows: Sequence[Sequence[str]] = ()
  # The first one is the head.
  sides: str = ""
  # < or > for each column.
  lines: Sequence[str] = ()
  loud: Sequence[str] = ()
  # Lines that nobody should pass over.


def exact(n: float) -> str:
  """All digits, grouped by commas; two decimals if it is not whole."""
  whole = math.isfinite(n) and n == int(n)
  return f"{int(n):,}" if whole else f"{n:,.2f}"


def shape(given: Shape) -> str:
  """28x28x1, or scalar."""
  return "x".join(map(str, given)) or "scalar"


def summary(report: Report) -> Iterator[Section]:
  """All but the layers: totals first, what is left out last."""
  yield totals(report)
  if report.macs:
    yield pairs(report)
  if report.is_training:
    yield from phases(report)
  if len(rows := _sizes(report)) > 4:
    yield Section("Memory", rows, "<>>>")
  if flagged := report.flagged:
    said = (
      f"{FLAG} {len(flagged)} of {len(report.layers)} products have codes"
      " whose scale varies along the contraction: ace counts their bits,"
      " ace_strict counts float."
    )
    yield Section("", lines=[said, f"  {', '.join(_shortened(flagged))}"])
  yield from program(report)
  yield left_out(report)
  if report.notes:
    yield Section("Notes", lines=report.notes)


def totals(report: Report) -> Section:
  """The program under every registered convention, and its parameters."""
  figures: list[tuple[str, float, str]] = [
    ("MACs", sum(report.macs.values()), ""),
    ("weights", report.weight_bytes, "bytes"),
    ("parameters", report.params["total"], ""),
  ]
  for name in _conventions.REGISTRY:
    found = _conventions.REGISTRY.get(name)  # a plain function is one too
    title, unit = (getattr(found, k, "") for k in ("title", "unit"))
    figures.append((title or name, report.total(name), unit))
  rows = [(what, exact(n), amount(n), unit) for what, n, unit in figures]
  return Section("", [("total", "exact", "", "unit"), *rows], "<>><")


def pairs(report: Report) -> Section:
  """MACs and ACE by the bits of both operands."""
  whole = report.ace or 1
  rows = [
    (f"{i} x {j}", f"{n:,}", f"{n * i * j:,}", f"{n * i * j / whole:.1%}")
    for (i, j), n in sorted(report.macs.items(), reverse=True)
  ]
  head = ("bits (act x weight)", "MACs", "ACE", "share of ACE")
  return Section("", [head, *rows], "<>>>")


def phases(report: Report) -> Iterator[Section]:
  """What a training step does in each phase, keeps and sends."""
  for rows, sides in _phases.tables(report):
    yield Section("", rows, sides)
  if said := _phases.notes(report):
    yield Section("", lines=said)


def _sizes(report: Report) -> list[tuple[str, str, str, str]]:
  memory = report.memory()
  found: list[tuple[str, str, float]] = []
  for label, by_bits in (
    ("weights", memory.weights_by_bits),
    ("looked-up tables", memory.embeddings_by_bits),
    ("other parameters", memory.other_parameters_by_bits),
  ):
    found += [
      (f"{label}, {_bits(bits)}", f"{n:,}", bits * n / 8)
      for bits, n in sorted(by_bits.items())
    ]
  if found[1:]:
    whole = f"{report.params['total']:,}"
    found.append(("all parameters", whole, memory.parameters_bytes))
  kinds: dict[str, float] = {"batch statistics": memory.batch_stats_bytes}
  for kind, n in memory.states.values():
    kinds[f"states, {kind}"] = kinds.get(f"states, {kind}", 0) + n
  found += [(kind, "", n) for kind, n in kinds.items() if n]
  found.append(("all at rest", "", memory.total_bytes))
  if not report.is_training:  # its peaks stand with the phases
    found += [
      ("activations at peak", "", memory.activations_bytes),
      ("  packed to their bits", "", memory.activations_tagged_bytes),
    ]
  rows = [(what, n, exact(size), _binary(size)) for what, n, size in found]
  return [("", "elements", "bytes", ""), *rows]


def _binary(size: float) -> str:
  """5.0340 GiB; small sizes need no second form."""
  for unit, power in (("GiB", 30), ("MiB", 20)):
    if size >= 2**power / 10:
      return f"{size / 2**power:.4f} {unit}"
  return ""


def _bits(n: int) -> str:
  return f"{n} bit{'' if n == 1 else 's'}"


def program(report: Report) -> Iterator[Section]:
  """Branches, look-ups and transfers, as far as there are some."""
  if report.branches:
    rows = [
      (
        row.where or "cond",
        str(i),
        f"{row.macs[i]:,}",
        f"{row.ace[i]:,}",
        f"{row.repeats:,}",
        "counted" if i == row.counted else "",
      )
      for row in report.branches
      for i in range(len(row.ace))
    ]
    head = ("cond at", "branch", "MACs", "ACE", "times", "")
    yield Section(
      "Branches, of which the dearest is counted", [head, *rows], "<>>>><"
    )
  if report.lookups:
    rows = [
      (look.path, f"{look.elements:,}", str(look.bits))
      for look in report.lookups
    ]
    head = ("looked up", "elements read", "bits")
    yield Section("", [head, *rows], "<>>")
  if report.collectives:
    rows = [
      (
        row.primitive,
        ", ".join(row.axes),
        row.where or "the top",
        row.phase,
        f"{row.bytes * row.repeats:,}",
      )
      for row in report.collectives
    ]
    head = ("transfer", "axes", "where", "phase", "bytes of a device")
    yield Section("", [head, *rows], "<<<<>")


def left_out(report: Report) -> Section:
  """What no convention counts, with amounts, and what nobody could count."""
  rows = [(k, exact(n)) for k, n in report.left_out().items() if n]
  hidden = [row for row in report.not_counted if row.matrix_like]
  listed = [row for row in report.not_counted if not row.matrix_like]
  return Section(
    "Left out of these figures",
    [("", "amount"), *rows],
    "<>",
    lines=[
      f"Listed, without products: {_place(row)}, {exact(row.elements)} elements"
      for row in listed
    ],
    loud=[
      f"NOT COUNTED: {_place(row)}: {row.reason}{_trips(row)}" for row in hidden
    ],
  )


def _place(row: NotCounted) -> str:
  shapes = ", ".join(map(shape, row.shapes)) or "none"
  return f"{row.primitive} at {row.where or 'the top'}, operands {shapes}"


def _trips(row: NotCounted) -> str:
  said = f"; {row.repeats:,} times" if row.repeats > 1 else ""
  if row.macs_per_trip is not None:
    said += f"; {row.macs_per_trip:,} MACs each time"
  return said


def conventions(report: Report) -> Section:
  """What each convention leaves out; those of one sentence together."""
  by_sentence: dict[str, list[str]] = {}
  seen: set[str] = set()
  for row in _left_out.to_json(report).values():
    said = str(row["leaves_out"])
    if row["macs_priced_0"]:
      said += f"; {row['macs_priced_0']:,} MACs are 0 here"
    by_sentence.setdefault(said, []).append(str(row["title"]))
  lines = [
    f"{'; '.join(titles)}: {_briefly(said, seen)}."
    for said, titles in by_sentence.items()
  ]
  return Section("What each convention leaves out", lines=lines)


def _briefly(text: str, seen: set[str]) -> str:
  """The text without asides that an earlier one has."""

  def once(aside: re.Match[str]) -> str:
    known = aside[0] in seen
    seen.add(aside[0])
    return "" if known else aside[0]

  return re.sub(r" \([^()]*\)", once, text)


def chips(report: Report) -> Section:
  """The least time of the products on each chip that has a name."""
  rows = [("at least, on", "seconds", "bound by", "operations a byte")]
  for name in CHIPS:
    found = report.roofline(name)
    slow = found.seconds_memory > found.seconds_compute
    bound = "memory" if slow else "arithmetic"
    if found.macs_without_unit:
      bound += f", {amount(found.macs_without_unit)} MACs without a unit"
    cells = (f"{found.seconds:.4g}", bound, f"{found.intensity:.4g}")
    rows.append((name, *cells))
  return Section("", rows if report.layers else (), "<><>")


def elementwise(report: Report) -> Section:
  """Scalar operations by the name of their mark."""
  rows = [(name, f"{n:,}") for name, n in report.elementwise.items()]
  return Section("", [("element-wise, by name", "operations"), *rows], "<>")


LAYER = ("layer", "kind", "in", "out", "kernel", "bits", "MACs", "ACE")
SIDES = "<<<<<<>>"


def layers(report: Report) -> list[tuple[str, ...]]:
  """A row for each product, below its head."""
  return [LAYER, *(_layer(record) for record in report.layers)]


def _layer(record: Record) -> tuple[str, ...]:
  mark = FLAG if CONTRACTED in record.flags else ""
  phase = "" if record.phase == "forward" else f" ({_role(record)})"
  return (
    f"{record.name}{phase}",
    record.kind,
    shape(record.in_shape),
    shape(record.out_shape),
    shape(record.kernel),
    f"{record.lhs_bits}x{record.rhs_bits}{mark}",
    f"{record.macs:,}",
    f"{record.ace:,}",
  )


def _role(record: Record) -> str:
  """The phase, and of what a backward product makes the gradient."""
  if record.phase != "backward" or not (record.params or record.gradient_of):
    return record.phase
  return f"backward, d{record.gradient_of.rpartition('/')[2] or 'x'}"


def to_json(report: Report) -> dict[str, Any]:
  """Branches, look-ups and transfers as JSON values."""
  return {
    "branches": [dataclasses.asdict(row) for row in report.branches],
    "lookups": [dataclasses.asdict(row) for row in report.lookups],
    "collectives": [dataclasses.asdict(row) for row in report.collectives],
  }


def _shortened(names: list[str], most: int = 8) -> list[str]:
  if len(names) <= most:
    return names
  return [*names[:most], f"and {len(names) - most} more"]
