"""What the figures of a report leave out, with amounts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jbin.cost._conventions import (
  REGISTRY,
  Convention,
  Price,
  ace_strict,
  sum_of,
)

if TYPE_CHECKING:
  from jbin.cost._report import Report


def find(convention: str | Price) -> Price:
  """The convention of that name; a function is one itself.

  Raises:
    errors.UnknownName: if no convention has that name.
  """
  return REGISTRY.get(convention) if isinstance(convention, str) else convention


def amounts(
  report: Report, convention: str | Price | None = None
) -> dict[str, float]:
  """What is left out, by what it is.

  Args:
    report: of the program.
    convention: its own omissions stand first: the MACs that it prices 0, by
      the bits of their operands. None: only what no convention counts.
  """
  found: dict[str, float] = {}
  price = None if convention is None else find(convention)
  if price is not None:
    for record in report.layers:
      if record.macs and not price(record):
        label = f"MACs priced 0, {record.lhs_bits} x {record.rhs_bits} bits"
        found[label] = found.get(label, 0) + record.macs
  if price is not ace_strict:
    found["MACs of floats that put groups of a scale together"] = sum(
      record.partials for record in report.layers
    )
  found["elements looked up in parameters"] = sum(
    look.elements for look in report.lookups
  )
  found["bytes that a device sends to others"] = sum(
    row.bytes * row.repeats for row in report.collectives
  )
  found["MACs of one trip of each loop that is not counted"] = sum(
    (row.macs_per_trip or 0) * row.repeats for row in report.not_counted
  )
  found["integer element-wise operations on activations"] = sum(
    report.integers_by_primitive.values()
  )
  return {label: n for label, n in found.items() if n} | _always(report)


def _always(report: Report) -> dict[str, float]:
  """Those that are worth a line at 0 too."""
  weights = sum(report.weights_by_bits.values())
  return {
    "marked element-wise operations": sum(report.elementwise.values()),
    "floating element-wise operations on activations, marked or not": sum(
      report.elementwise_by_primitive.values()
    ),
    "scalar operations on parameters alone": report.on_parameters,
    "parameters outside products": report.params["total"] - weights,
    "primitives without a price": len(report.not_counted),
  }


def statement(report: Report, convention: str | Price) -> str:
  """A total with its unit, what it leaves out, and how much that is."""
  price = find(convention)
  total = sum_of(price, report.layers)
  if isinstance(price, Convention):
    head = f"{price.title} ({price.name}): {_number(total)} {price.unit}"
    lines = [head, f"  leaves out {price.leaves_out}"]
  else:
    name = getattr(price, "__name__", "a function")
    lines = [f"{name}: {_number(total)}"]
  rows = {k: _number(n) for k, n in amounts(report, price).items() if n}
  label = max(map(len, rows), default=0)
  digits = max(map(len, rows.values()), default=0)
  lines += [f"    {k:<{label}}  {n:>{digits}}" for k, n in rows.items()]
  return "\n".join(lines)


def to_json(report: Report) -> dict[str, Any]:
  """Every registered convention: its total, and the MACs that it prices 0."""
  table = {}
  for name in REGISTRY:
    price = REGISTRY.get(name)
    unpriced = [r.macs for r in report.layers if r.macs and not price(r)]
    table[name] = {
      "title": getattr(price, "title", name),
      "unit": getattr(price, "unit", ""),
      "total": sum_of(price, report.layers),
      "macs_priced_0": sum(unpriced),
      "leaves_out": getattr(price, "leaves_out", ""),
    }
  return table


def _number(n: float) -> str:
  return f"{int(n):,}" if float(n).is_integer() else f"{n:,.6g}"
