"""Where the walk is, and what it knows of the loops and devices around it."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any, SupportsIndex

from jax.extend import core

from jbin import errors
from jbin.cost._record import UPDATE
from jbin.cost._values import Value


@dataclasses.dataclass(frozen=True)
class Place:
  """Where the walk is: the calls around it, as keys and as names."""

  keys: tuple[int, ...] = ()
  stack: str = ""
  mesh: tuple[tuple[str, int], ...] = ()
  # The axes of the devices that each run this, with their lengths.

  def inside(self, eqn: core.JaxprEqn) -> Place:
    """The place of an equation's inner program."""
    return dataclasses.replace(
      self, keys=(*self.keys, id(eqn)), stack=self.name(eqn)
    )

  def sharers(self, devices: frozenset[str]) -> int:
    """How many devices differ, if they do along these axes of the mesh.

    What all devices of an axis compute alike counts once.
    """
    return math.prod(n for axis, n in self.mesh if axis in devices)

  def name(self, eqn: core.JaxprEqn) -> str:
    """The name stack of an equation, from the top."""
    own = str(eqn.source_info.name_stack)
    return "/".join(part for part in (self.stack, own) if part)


class Trips:
  """How often each `while` goes round, as far as the caller says."""

  def __init__(self, given: int | Mapping[str, int] | None):
    for n in given.values() if isinstance(given, Mapping) else [given]:
      if n is not None and not _is_count(n):
        raise errors.UserError(
          f"trips={given!r}: how often a loop goes round is an integer from 0"
          " on"
        )
    self.given = given
    self._names: dict[tuple[int, ...], str] = {}

  def name(self, place: Place, eqn: core.JaxprEqn) -> str:
    """What the caller calls a loop: its place, numbered from the second on."""
    key = (*place.keys, id(eqn))
    if key not in self._names:
      where = place.name(eqn) or "while"
      taken, name, n = set(self._names.values()), where, 1
      while name in taken:
        n += 1
        name = f"{where}#{n}"
      self._names[key] = name
    return self._names[key]

  def of(self, name: str) -> int | None:
    """The trips of a loop."""
    if isinstance(self.given, Mapping):
      return self.given.get(name)
    return self.given

  def check(self) -> None:
    """Raises if the caller named a loop that is not in the program."""
    known = set(self._names.values())
    given = set(self.given) if isinstance(self.given, Mapping) else set()
    if lost := sorted(given - known):
      raise errors.UserError(
        f"trips names {lost}, but the while loops of the program are"
        f" {sorted(known)}"
      )


def _is_count(n: Any) -> bool:
  return isinstance(n, SupportsIndex) and operator.index(n) >= 0


def phase(where: str, values: Sequence[Value]) -> str:
  """What an equation is there for; JAX's transformations leave their names."""
  if UPDATE in where:
    return "update"
  if "rematted_computation" in where:
    return "recompute"
  if "transpose(" in where:
    return "backward"
  differentiated = "jvp(" in where
  late = any(v.after for v in values) and not differentiated
  return "update" if late else "forward"
