"""Bytes that products move, and the time they take at least on a chip."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

from jbin.cost import _chips, _left_out, _units
from jbin.cost._conventions import NO_PRODUCT, convention
from jbin.cost._record import Record

if TYPE_CHECKING:
  from jbin.cost._report import Report

EXACT_IN_FLOAT32 = 24  # bits of an integer that float32 holds


@convention(
  "bytes moved by products",
  "bytes",
  f"the traffic of {NO_PRODUCT}; what a cache or a fused kernel saves",
)
def bytes_moved(record: Record) -> float:
  """Bytes that the products read and write, each operand once a trip.

  `cost = trips * (lhs elements * lhs_bits + rhs elements * rhs_bits + results
  * bits of their dtype) / 8`: codes are read packed, at the bits of their tag.
  In a loop the weights are read in every trip.
  """
  bits = record.lhs.size * record.lhs_bits
  bits += record.rhs.size * record.rhs_bits
  bits += record.outputs * record.output_bits
  whole, rest = divmod(bits * record.repeats, 8)
  return whole + rest / 8 if rest else whole


@dataclasses.dataclass(frozen=True)
class Row:
  """One product on a chip; the devices that share it do so evenly."""

  layer: str
  unit: str | None
  # That computes it; None: the chip has none for this dtype.
  operations: float
  # Of one device, a multiply-accumulate is two.
  bytes_moved: float
  # By one device.
  seconds_compute: float
  seconds_memory: float

  @property
  def seconds(self) -> float:
    """The longer of the two: arithmetic and memory work at the same time."""
    return max(self.seconds_compute, self.seconds_memory)

  @property
  def bound(self) -> str:
    """What takes longer: "compute" or "memory"; "no unit" if none computes."""
    if self.unit is None:
      return "no unit"
    fast = self.seconds_compute >= self.seconds_memory
    return "compute" if fast else "memory"

  @property
  def intensity(self) -> float:
    """Operations for each byte."""
    return _ratio(self.operations, self.bytes_moved)


@dataclasses.dataclass(frozen=True)
class Roofline:
  """The least time of a program's products on one chip."""

  chip: _chips.Chip
  rows: list[Row]
  macs_without_unit: int
  # Of products that the chip has no unit for; they take no time here.
  left_out: dict[str, float]
  # What takes time too, with amounts.

  @property
  def seconds(self) -> float:
    """The sum over the products, one after another."""
    return math.fsum(row.seconds for row in self.rows)

  @property
  def seconds_compute(self) -> float:
    """The sum of arithmetic alone."""
    return math.fsum(row.seconds_compute for row in self.rows)

  @property
  def seconds_memory(self) -> float:
    """The sum of memory traffic alone."""
    return math.fsum(row.seconds_memory for row in self.rows)

  @property
  def bytes_moved(self) -> float:
    """Bytes that one device moves."""
    return math.fsum(row.bytes_moved for row in self.rows)

  @property
  def intensity(self) -> float:
    """Operations for each byte, over all products."""
    whole = math.fsum(row.operations for row in self.rows)
    return _ratio(whole, self.bytes_moved)

  def to_json(self) -> dict[str, Any]:
    """The totals as JSON values."""
    return {
      "chip": self.chip.name,
      "seconds": self.seconds,
      "seconds_compute": self.seconds_compute,
      "seconds_memory": self.seconds_memory,
      "bytes_moved": self.bytes_moved,
      "intensity": self.intensity,
      "macs_without_unit": self.macs_without_unit,
      "source": self.chip.source,
    }


def unit_of(record: Record, chip: _chips.Chip) -> str | None:
  """The unit of a chip that computes a product, None if it has none.

  Codes run on the narrowest integer unit that holds them, else as float32;
  floats in their own dtype or the next wider one, and float32 on the unit that
  JAX takes for it at its default precision.
  """
  asked = _units.need(record)
  if asked.name == "float32":
    return chip.float32
  unit = _units.fits(chip.peaks, asked)
  if unit is None and not asked.is_float and asked.bits <= EXACT_IN_FLOAT32:
    return chip.float32
  return unit


def roofline(report: Report, chip: str | _chips.Chip) -> Roofline:
  """The least time of a report's products on a chip.

  Raises:
    errors.UnknownName: if no chip has that name.
  """
  if isinstance(chip, str):
    chip = _chips.find(chip)
  rows = [_row(record, chip) for record in report.layers]
  homeless = sum(
    record.macs
    for record, row in zip(report.layers, rows, strict=True)
    if row.unit is None
  )
  left_out = _left_out.amounts(report)
  if homeless:
    left_out = {"MACs for which the chip has no unit": homeless} | left_out
  return Roofline(chip, rows, homeless, left_out)


def to_json(report: Report) -> dict[str, Any]:
  """The totals on every chip that has a name."""
  return {name: roofline(report, name).to_json() for name in _chips.CHIPS}


def _row(record: Record, chip: _chips.Chip) -> Row:
  unit = unit_of(record, chip)
  operations = 2 * record.macs / record.devices
  moved = bytes_moved(record) / record.devices
  return Row(
    layer=record.name,
    unit=unit,
    operations=operations,
    bytes_moved=moved,
    seconds_compute=0.0 if unit is None else operations / chip.peaks[unit],
    seconds_memory=moved / chip.bandwidth,
  )


def _ratio(n: float, by: float) -> float:
  return n / by if by else math.inf if n else 0.0
