"""What the page shows of cost beside layers: sizes, conventions, omissions."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jbin.report import _layers, _numbers, _read


@dataclasses.dataclass(frozen=True)
class Share:
  """A piece of a bar: its label, figure and part of the whole."""

  label: str
  figure: str
  share: float
  tone: str


Bar = tuple[str, str, list[Share]]
# A label, the whole, and the pieces.


@dataclasses.dataclass(frozen=True)
class Convention:
  """A way to price products, with a cell for each run."""

  title: str
  unit: str
  leaves_out: str
  cells: Sequence[tuple[str, str, str]]
  # The figure, all its digits, and what is priced 0.


@dataclasses.dataclass(frozen=True)
class Part:
  """A line of the size table."""

  label: str
  tone: str
  elements: str
  bytes: float
  share: float


def bars(run: _read.Run) -> list[Bar]:
  """MACs, ACE and weight bytes by bits, each as parts of a whole."""
  macs = run.macs
  ace = {pair: n * pair[0] * pair[1] for pair, n in macs.items()}
  weights = {
    (int(bits), int(bits)): int(n) * int(bits) / 8
    for bits, n in run.cost["totals"]["weights_by_bits"].items()
  }
  found = [_bar("MACs", macs, _numbers.short), _bar("ACE", ace, _numbers.short)]
  return [*found, _bar("Weights", weights, _numbers.size, one=True)]


def _bar(
  label: str,
  parts: Mapping[tuple[int, int], float],
  form: Any,
  *,
  one: bool = False,
) -> Bar:
  whole = sum(parts.values())
  name = (lambda pair: f"{pair[0]} bit") if one else _numbers.pair
  shares = [
    Share(name(pair), form(n), n / whole, _layers.tone(*pair))
    for pair, n in sorted(parts.items())
    if n
  ]
  return label, form(whole), shares


def sizes(cost: Mapping[str, Any]) -> list[Part]:
  """What is held in memory, by kind and width; the last line is the total.

  Without the key "memory", as older files are, nothing.
  """
  memory: Mapping[str, Any] = cost.get("memory") or {}
  rows: list[tuple[str, str, str, float]] = []
  for key, label in (
    ("weights", "Weights"),
    ("embeddings", "Looked-up tables"),
    ("other_parameters", "Other parameters"),
  ):
    by_bits: Mapping[str, int] = memory.get(f"{key}_by_bits") or {}
    for bits, n in sorted(by_bits.items(), key=lambda row: int(row[0])):
      name = f"{label} of {bits} bit{'' if bits == '1' else 's'}"
      tone = _layers.tone(int(bits), int(bits))
      rows.append((name, tone, _numbers.exact(n), int(bits) * n / 8))
    if not by_bits and memory.get(f"{key}_bytes"):
      rows.append((label, "", "", memory[f"{key}_bytes"]))
  if memory.get("batch_stats_bytes"):
    rows.append(("Batch statistics", "", "", memory["batch_stats_bytes"]))
  kinds: dict[str, float] = {}
  states: Mapping[str, Sequence[Any]] = memory.get("states") or {}
  for kind, n in states.values():
    kinds[str(kind)] = kinds.get(str(kind), 0) + n
  rows += [(f"States: {kind}", "", "", n) for kind, n in kinds.items()]
  whole = sum(row[3] for row in rows)
  return [Part(*row, row[3] / whole if whole else 0) for row in rows if row[3]]


def conventions(runs: Sequence[_read.Run]) -> list[Convention]:
  """Every convention that a run has, in the order of the first run."""
  tables: list[Mapping[str, Any]] = [
    run.cost.get("conventions") or {} for run in runs
  ]
  found: dict[str, Mapping[str, Any]] = {}
  for table in tables:
    for name, row in table.items():
      found.setdefault(name, row)
  seen: set[str] = set()
  return [
    Convention(
      title=_capital(str(row["title"])),
      unit=str(row["unit"]),
      leaves_out=_briefly(str(row.get("leaves_out", "")), seen),
      cells=[_price(table.get(name), row["unit"]) for table in tables],
    )
    for name, row in found.items()
  ]


def _briefly(text: str, seen: set[str]) -> str:
  """The text without asides that an earlier one has."""

  def once(aside: re.Match[str]) -> str:
    known = aside[0] in seen
    seen.add(aside[0])
    return "" if known else aside[0]

  return re.sub(r" \([^()]*\)", once, text)


def _capital(text: str) -> str:
  return text[:1].upper() + text[1:]


def _price(row: Mapping[str, Any] | None, unit: str) -> tuple[str, str, str]:
  if row is None:
    return _numbers.NONE, "", ""
  brief = _numbers.short(row["total"])
  whole = _numbers.exact(row["total"])
  if unit == "pJ":
    brief, whole = _numbers.joules(row["total"]), f"{whole} pJ"
  elif unit == "bytes":
    brief = _numbers.size(row["total"])
  free = int(row.get("macs_priced_0") or 0)
  said = f"{_numbers.short(free)} MACs at 0" if free else ""
  return brief, "" if brief == whole else whole, said


def omissions(run: _read.Run) -> dict[str, Any]:
  """What the figures leave out, and what in the program chose or moved."""
  cost = run.cost
  uncounted: list[Mapping[str, Any]] = list(cost.get("not_counted") or ())
  return {
    "flagged": list(cost.get("flagged") or ()),
    "ace": run.ace,
    "ace_strict": cost["totals"].get("ace_strict"),
    "elementwise": dict(cost.get("elementwise_scalar_ops") or {}),
    "left_out": {
      label: n
      for label, n in (cost.get("left_out") or {}).items()
      if n or "not counted" not in label
    },
    # Sorting, cumulative sums and transforms hide no products.
    "listed": [row for row in uncounted if row.get("matrix_like") is False],
    "not_counted": [
      row for row in uncounted if row.get("matrix_like") is not False
    ],
    "branches": list(cost.get("branches") or ()),
    "lookups": list(cost.get("lookups") or ()),
    "collectives": list(cost.get("collectives") or ()),
    "notes": list(cost.get("notes") or ()),
  }


def chips(runs: Sequence[_read.Run]) -> list[tuple[str, str, list[Any]]]:
  """For each chip its name, where its figures are from, a cell for each run.

  A cell: the least time, what bounds it, and the operations for each byte.
  """
  tables: list[Mapping[str, Any]] = [
    run.cost.get("roofline") or {} for run in runs
  ]
  names = list(dict.fromkeys(name for table in tables for name in table))
  return [
    (
      name,
      next(str(t[name].get("source", "")) for t in tables if name in t),
      [_time(table.get(name)) for table in tables],
    )
    for name in names
  ]


def _time(row: Mapping[str, Any] | None) -> tuple[str, str, str]:
  if row is None:
    return _numbers.NONE, "", ""
  slow = row["seconds_memory"] > row["seconds_compute"]
  without = int(row.get("macs_without_unit") or 0)
  return (
    _numbers.seconds(row["seconds"]),
    "memory" if slow else "arithmetic",
    f"{_numbers.short(without)} MACs without a unit" if without else "",
  )
