"""Whether a cost report has what the pages read, and of the right type."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jbin import errors

_TOTALS = ("ace", "macs", "macs_by_bit_pair", "weight_bytes", "weights_by_bits")
_LAYER = ("name", "kind", "macs", "lhs_bits", "rhs_bits", "weights")
# What these hold is no number.
_TEXTS = ("name", "kind")
_TABLES = ("macs_by_bit_pair", "weights_by_bits", "params")
# Keys that a report may lack, and the types that they need.
_MAPPINGS = ("conventions", "memory", "training")
_LISTS = ("not_counted",)


def check(cost: Mapping[str, Any], path: Path | str, count: str) -> None:
  """Every key that the report reads is there, with a value that it can read.

  Raises:
    errors.UserError: if one is not; `count` writes the file again.
  """
  missing, wrong = _missing(cost), list(_wrong(cost))
  if missing:
    raise errors.UserError(
      f"{path} lacks {', '.join(missing[:3])}; write it again: {count}"
    )
  if wrong:
    raise errors.UserError(
      f"{path}: {'; '.join(wrong[:3])}; write it again: {count}"
    )


def _missing(cost: Mapping[str, Any]) -> list[str]:
  totals = cost.get("totals")
  found = [key for key in ("model", "layers") if key not in cost]
  if totals is None or isinstance(totals, Mapping):
    table: Mapping[str, Any] = totals or {}
    found = [f"totals.{key}" for key in _TOTALS if key not in table] + found
  for name, row in _rows(cost, "layers"):
    found += [f"{name}.{key}" for key in _LAYER if key not in row]
  for name, row in _rows(cost, "conventions"):
    keys = ("title", "unit", "total")
    found += [f"{name}.{key}" for key in keys if key not in row]
  for name, row in _rows(cost, "not_counted"):
    keys = ("primitive", "reason")
    found += [f"{name}.{key}" for key in keys if key not in row]
  return found


def _rows(
  cost: Mapping[str, Any], key: str
) -> Iterator[tuple[str, Mapping[str, Any]]]:
  """The parts of a list or an object that are objects, and their places."""
  for name, row in _parts(cost, key):
    if isinstance(row, Mapping):
      yield name, row


def _parts(cost: Mapping[str, Any], key: str) -> Iterator[tuple[str, Any]]:
  given = cost.get(key)
  if isinstance(given, list):
    rows: Sequence[Any] = given
    yield from ((f"{key}[{i}]", row) for i, row in enumerate(rows))
  elif isinstance(given, Mapping):
    table: Mapping[str, Any] = given
    yield from ((f"{key}.{name}", row) for name, row in table.items())


def _wrong(cost: Mapping[str, Any]) -> Iterator[str]:
  for key in ("totals", *_MAPPINGS):
    if key in cost and not isinstance(cost[key], Mapping):
      yield f"{key} is no object"
  for key in ("layers", *_LISTS):
    if key in cost and not isinstance(cost[key], list):
      yield f"{key} is no list"
  for key in ("layers", "conventions", "not_counted"):
    for name, row in _parts(cost, key):
      if not isinstance(row, Mapping):
        yield f"{name} is no object"
  totals = cost.get("totals")
  if isinstance(totals, Mapping):
    yield from _wrong_totals(totals)
  for name, row in _rows(cost, "layers"):
    for key in ("name", "kind"):
      if not isinstance(row.get(key, ""), str):
        yield f"{name}.{key} is no text"
    for key in (*_LAYER, "ace", "weight_bytes"):
      if key not in _TEXTS and key in row:
        yield from _unless(_is_number, row[key], f"{name}.{key}")
    kernel: Any = row.get("kernel") or []
    if not isinstance(kernel, list) or not all(map(_is_number, kernel)):
      yield f"{name}.kernel is no list of numbers"
  for name, row in _rows(cost, "conventions"):
    for key in ("total", "macs_priced_0"):
      yield from _unless(_is_number, row.get(key, 0), f"{name}.{key}")
  for name, row in _rows(cost, "not_counted"):
    n = row.get("macs_per_trip")
    yield from _unless(
      _is_number, 0 if n is None else n, f"{name}.macs_per_trip"
    )
  for key, n in _parts(cost, "memory"):
    if key.endswith("_bytes"):
      yield from _unless(_is_number, n, key)


def _wrong_totals(totals: Mapping[str, Any]) -> Iterator[str]:
  for key, given in totals.items():
    name = f"totals.{key}"
    if key not in _TABLES:
      yield from _unless(_is_number, given, name)
    elif not isinstance(given, Mapping):
      yield f"{name} is no object"
    else:
      table: Mapping[str, Any] = given
      form = {"macs_by_bit_pair": r"\d+x\d+", "weights_by_bits": r"\d+"}
      for part, n in table.items():
        if not re.fullmatch(form.get(key, ".*"), part):
          yield f"{name} has no bits {part!r}"
        yield from _unless(_is_number, n, f"{name}.{part}")


def _unless(test: Callable[[Any], bool], given: Any, name: str) -> list[str]:
  return [] if test(given) else [f"{name} is no number"]


def _is_number(given: Any) -> bool:
  """A finite one: JSON of Python may hold NaN."""
  if isinstance(given, bool) or not isinstance(given, int | float):
    return False
  return given - given == 0
