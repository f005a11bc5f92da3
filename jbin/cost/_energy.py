"""Multiplications, additions, and the energy of both."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from jbin.cost import _units
from jbin.cost._conventions import (
  NO_PRODUCT,
  convention,
  has_one_bit,
)
from jbin.cost._record import Record

if TYPE_CHECKING:
  from jbin.cost._report import Report

# pJ of (one multiplication, one addition) by unit.
Table = Mapping[str, tuple[float, float]]

# M. Horowitz, "Computing's energy problem (and what we can do about it)",
# ISSCC 2014: 45 nm, 0.9 V. The two float32 figures are those of EcoFormer.
PJ_45NM: Table = MappingProxyType(
  {
    "int8": (0.2, 0.03),
    "int32": (3.1, 0.1),
    "float16": (1.1, 0.4),
    "float32": (3.7, 0.9),
  }
)
# N. Jouppi et al., "Ten lessons from three generations shaped Google's
# TPUv4i", ISCA 2021: 7 nm, as they are quoted where ACE is justified.
PJ_7NM: Table = MappingProxyType(
  {
    "int8": (0.07, 0.007),
    "bfloat16": (0.21, 0.11),
    "float16": (0.34, 0.16),
    "float32": (1.31, 0.38),
  }
)
# A bfloat16 multiply-accumulate is 16 x 16 ACE and 0.21 + 0.11 pJ.
PJ_PER_ACE = sum(PJ_7NM["bfloat16"]) / 256

_NO_MEMORY = (
  f"{NO_PRODUCT}, the width of the accumulator, and every access to memory,"
  " which mostly takes more than the arithmetic"
)
# Products of these are 0.
_NO_WIDER = "what is wider than 32 bits (float64: the table has no unit for it)"


@dataclasses.dataclass(frozen=True)
class Operations:
  """Scalar multiplications and additions of products, by unit."""

  multiplications: dict[str, int]
  # By what they are done in: "float32", "int8"; "int1" for 1-bit codes.
  additions: dict[str, int]

  @property
  def total_multiplications(self) -> int:
    """All multiplications."""
    return sum(self.multiplications.values())

  @property
  def total_additions(self) -> int:
    """All additions."""
    return sum(self.additions.values())

  def to_json(self) -> dict[str, dict[str, int]]:
    """The fields as JSON values."""
    return dataclasses.asdict(self)


def operations(report: Report) -> Operations:
  """The multiplications and additions of a report's products, by unit."""
  found = Operations({}, {})
  for record in report.layers:
    unit = _units.need(record).name
    for kind, n in (
      (found.multiplications, multiplications(record)),
      (found.additions, additions(record)),
    ):
      if n:
        kind[unit] = kind.get(unit, 0) + int(n)
  return found


@convention(
  "multiplications",
  "operations",
  f"{NO_PRODUCT}; the gain of ternary codes, which count as 2 bits",
)
def multiplications(record: Record) -> int:
  """Scalar multiplications of the products: none with 1-bit codes.

  `cost = 0` if an operand is 1-bit codes, for a sign or a mask is no
  multiplication, else `macs`. Reference: EcoFormer, whose table of `Mul` has
  beyond this the element-wise multiplications.
  """
  return 0 if has_one_bit(record) else record.macs


@convention("additions", "operations")
def additions(record: Record) -> int:
  """Scalar additions of the products: one for each multiply-accumulate.

  `cost = macs`, at any bits: a product of binary codes is an addition.
  Reference: EcoFormer, whose table of `Add` has beyond this the element-wise
  additions.
  """
  return record.macs


def priced(record: Record, table: Table) -> tuple[float, float]:
  """PJ of a record's multiplications and of its additions.

  Both are done in the float dtype of the product, or in integers of the
  wider operand's bits; a width that the table lacks takes the next wider unit
  of its kind, and (0, 0) if there is none.
  """
  unit = _units.fits(table, _units.need(record))
  if unit is None:
    return 0, 0
  multiply, add = table[unit]
  return multiplications(record) * multiply, additions(record) * add


@convention("energy, 45 nm", "pJ", f"{_NO_WIDER}; {_NO_MEMORY}")
def energy_45nm(record: Record) -> float:
  """Energy of the arithmetic in pJ at 45 nm and 0.9 V.

  `cost = multiplications * m + additions * a`, with (m, a) in pJ: int8 (0.2,
  0.03), int32 (3.1, 0.1), float16 (1.1, 0.4), float32 (3.7, 0.9). A width that
  is not here takes the next wider unit: 4-bit codes are int8, bfloat16 is
  float16. A product with 1-bit codes on one side is additions alone, in the
  other side's dtype. Codes are integers wherever their scale goes, as in
  `ace`. References: Horowitz, ISSCC 2014, for the table;
  EcoFormer for the rule, with float32 alone.

  Differs from EcoFormer in what is not a product: there normalization, biases
  and scalings are counted too.
  """
  return sum(priced(record, PJ_45NM))


@convention(
  "energy of multiplications, 45 nm",
  "pJ",
  f"the additions; {_NO_WIDER}; {_NO_MEMORY}",
)
def energy_45nm_multiplications(record: Record) -> float:
  """The part of `energy_45nm` that multiplications take.

  `cost = multiplications * m`.
  """
  return priced(record, PJ_45NM)[0]


@convention(
  "energy of additions, 45 nm",
  "pJ",
  f"the multiplications; {_NO_WIDER}; {_NO_MEMORY}",
)
def energy_45nm_additions(record: Record) -> float:
  """The part of `energy_45nm` that additions take.

  `cost = additions * a`.
  """
  return priced(record, PJ_45NM)[1]


@convention(
  "energy, 7 nm",
  "pJ",
  f"codes of more than 8 bits, and {_NO_WIDER}; {_NO_MEMORY}",
)
def energy_7nm(record: Record) -> float:
  """Energy of the arithmetic in pJ at 7 nm.

  `cost = multiplications * m + additions * a`, with (m, a) in pJ: int8 (0.07,
  0.007), bfloat16 (0.21, 0.11), float16 (0.34, 0.16), float32 (1.31, 0.38).
  Widths and 1-bit codes as in `energy_45nm`. Reference: Jouppi et al., ISCA
  2021, for the table.
  """
  return sum(priced(record, PJ_7NM))


@convention("energy by ACE, 7 nm", "pJ", _NO_MEMORY)
def energy_7nm_ace(record: Record) -> float:
  """Energy in pJ at 7 nm if every cell of ACE takes the same.

  `cost = 0.00125 * ace`: 1.25 fJ for each cell, so that a bfloat16
  multiply-accumulate is its 0.21 + 0.11 pJ. Reference: PokeBNN.
  """
  return PJ_PER_ACE * record.ace
