"""The phases of a training step, and what stands beside them in a report."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from jbin.cost._record import PHASES

if TYPE_CHECKING:
  from jbin.cost._communication import Communication
  from jbin.cost._memory_check import MemoryCheck
  from jbin.cost._peak import Peak
  from jbin.cost._report import Report


@dataclasses.dataclass(frozen=True)
class Training:
  """What is known of a training step beside its products.

  Attributes:
    peak: what the step keeps at once.
    memory: the same beside XLA's figures, if it was compiled.
    communication: transfers between devices, if it was compiled for several.
  """

  peak: Peak
  memory: MemoryCheck | None = None
  communication: Communication | None = None


def phases(report: Report) -> dict[str, dict[str, Any]]:
  """See `Report.phases`."""
  found: dict[str, dict[str, Any]] = {
    phase: {"macs": {}, "ace": 0, "elementwise": n}
    for phase in PHASES
    if (n := report.by_phase.get(phase, 0))
    or any(r.phase == phase for r in report.layers)
  }
  for record in report.layers:
    row = found[record.phase]
    pair = (record.lhs_bits, record.rhs_bits)
    row["macs"][pair] = row["macs"].get(pair, 0) + record.macs
    row["ace"] += record.ace
  return found


def is_training(report: Report) -> bool:
  """Whether the program is more than a forward pass."""
  return report.training is not None or bool(
    phases(report).keys() - {"forward"}
  )


def to_json(report: Report) -> dict[str, Any]:
  """What a report's JSON has under "training"."""
  found = {}
  for phase, row in phases(report).items():
    pairs = {f"{i}x{j}": n for (i, j), n in row["macs"].items()}
    found[phase] = {
      "macs": sum(pairs.values()),
      "macs_by_bit_pair": pairs,
      "ace": row["ace"],
      "elementwise": row["elementwise"],
    }
  table: dict[str, Any] = {"phases": found}
  known = report.training
  if known is not None:
    table["peak"] = known.peak.to_json()
  if known is not None and known.memory is not None:
    table["memory_check"] = known.memory.to_json()
  if known is not None and known.communication is not None:
    table["communication"] = known.communication.to_json()
  return table


Rows = list[tuple[str, ...]]


def tables(report: Report) -> list[tuple[Rows, str]]:
  """The same as tables: rows, the first one a head, and the columns' sides."""
  rows: Rows = [("phase", "bits", "MACs", "ACE", "element-wise")]
  for phase, row in phases(report).items():
    pairs = sorted(row["macs"].items(), reverse=True)
    whole = sum(row["macs"].values())
    label = f"{pairs[0][0][0]} x {pairs[0][0][1]}" if len(pairs) == 1 else ""
    sums = (f"{whole:,}", f"{row['ace']:,}", f"{row['elementwise']:,}")
    rows.append((phase, label, *sums))
    rows += [
      ("", f"{i} x {j}", f"{n:,}", f"{n * i * j:,}", "")
      for (i, j), n in pairs
      if not label
    ]
  found = [(rows, "<<>>>")]
  if report.training is not None:
    found += _memory(report.training)
    found += _transfers(report.training)
  return found


def notes(report: Report) -> list[str]:
  """Why XLA's figures are others, and what is not known of the transfers."""
  found: list[str] = []
  known = report.training
  if known is not None and known.memory is not None:
    found += known.memory.notes
  if known is not None and known.communication is not None:
    found += known.communication.notes
  return found


def _memory(training: Training) -> list[tuple[Rows, str]]:
  peak, check = training.peak, training.memory
  at = f"{peak.primitive} in the {peak.phase} phase"
  rows: Rows = [
    ("memory", "bytes"),
    (f"peak of what the step makes, at {at}", f"{peak.bytes:,}"),
    ("  packed to their bits", f"{peak.tagged_bytes:,}"),
    ("  with element-wise work fused", f"{peak.fused_bytes:,}"),
    ("  and done again in later phases", f"{peak.recomputed_bytes:,}"),
    ("kept from forward for later phases", f"{peak.residual_bytes:,}"),
    ("  packed to their bits", f"{peak.residual_tagged_bytes:,}"),
    ("peak with arguments", f"{peak.total_bytes:,}"),
    ("arguments", f"{peak.arguments_bytes:,}"),
  ]
  if check is not None:
    rows += [
      ("XLA: temp + output - alias", f"{check.compiled:,}"),
      ("  temp", f"{check.temp:,}"),
      ("  output", f"{check.output:,}"),
      ("  alias", f"{check.alias:,}"),
      ("  argument", f"{check.argument:,}"),
    ]
  return [(rows, "<>")]


def _transfers(training: Training) -> list[tuple[Rows, str]]:
  if training.communication is None:
    return []
  rows: Rows = [("mesh axis", "transfers", "bytes", "sent, as a ring")]
  rows += [
    (axis, *(f"{row[key]:,}" for key in ("transfers", "bytes", "sent")))
    for axis, row in training.communication.by_axis().items()
  ]
  return [(rows, "<>>>")] if len(rows) > 1 else []
