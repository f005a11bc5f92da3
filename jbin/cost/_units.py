"""Which arithmetic unit a product needs, and which of a machine's it gets."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable

from jbin.cost._record import Operand, Record

_UNIT = re.compile(r"(?:bfloat|tfloat|float|int)(\d+)")


@dataclasses.dataclass(frozen=True)
class Need:
  """What a product computes in."""

  is_float: bool
  bits: int
  # Of the widest float, or of the widest codes.
  name: str
  # "float32", "bfloat16" (that of the dtype); "int1" for 1-bit codes.


def need(record: Record) -> Need:
  """The arithmetic of a product: that of its float side, else of its codes."""
  sides = (record.lhs, record.rhs)
  floats = [side for side in sides if side.is_float]
  if not floats:
    bits = max(side.bits for side in sides)
    return Need(False, bits, f"int{bits}")
  widest = max(floats, key=lambda side: side.bits)
  return Need(True, widest.bits, _name(widest))


def fits(units: Iterable[str], asked: Need) -> str | None:
  """The unit that runs it: its own, or the next wider one of its kind.

  Args:
    units: names as of dtypes ("int8", "bfloat16"); of two that are equally
      wide the first is taken.
    asked: what the product computes in.

  Returns:
    A name out of `units`, or None if no unit is wide enough.
  """
  units = list(units)
  if asked.name in units:
    return asked.name
  wide = [
    name
    for name in units
    if name.startswith("int") != asked.is_float and width(name) >= asked.bits
  ]
  return min(wide, key=width, default=None)


def width(unit: str) -> int:
  """The bits of a unit, by its name.

  Raises:
    ValueError: if the name is not that of a number's dtype.
  """
  found = _UNIT.match(unit)
  if found is None:
    raise ValueError(
      f"not a unit: {unit!r}; name it as a dtype: int8, bfloat16"
    )
  return int(found[1])


def _name(operand: Operand) -> str:
  return operand.dtype or f"float{operand.bits}"
