"""Which parameter's gradient a backward product makes.

In the program nothing links the product that gives dW with W: W is no operand
of it. But the gradient meets its parameter, element by element, in a surrogate
gradient or in the update; or it is handed back under the parameter's name. So
each value carries the numbers of the products that its elements come from.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence

from jax.extend import core

from jbin.cost import _arrays, _primitives
from jbin.cost._record import Record
from jbin.cost._trace import Parameter
from jbin.cost._values import Value

_NONE: frozenset[int] = frozenset()
# Beside these a result of the same size has the elements of its operands.
_MOVES = frozenset(
  [
    "broadcast_in_dim",
    "name",
    "reduce_sum",
    "reshape",
    "rev",
    "squeeze",
    "transpose",
  ]
)
# Devices add up what each has of a gradient.
_SUMS = frozenset(("psum", "psum_invariant"))
_SAME = _primitives.ELEMENTWISE | _primitives.IDENTITIES | _MOVES | _SUMS
_ARGUMENT = re.compile(r"arg\d+")


class Gradients:
  """The products of a walk, and the parameters that they met."""

  def __init__(self):
    self._met: dict[int, dict[tuple[str, int], None]] = {}

  def take(self, records: list[Record], start: int) -> frozenset[int]:
    """Numbers the new records; returns those that may make a gradient."""
    for i in range(start, len(records)):
      number = len(self._met)
      self._met[number] = {}
      records[i] = dataclasses.replace(records[i], number=number)
    return frozenset(r.number for r in records[start:] if _may(r))

  def follow(
    self, eqn: core.JaxprEqn, values: Sequence[Value], made: list[Value]
  ) -> list[Value]:
    """The results with the products that they come from."""
    if eqn.primitive.name not in _SAME or not any(v.makers for v in values):
      return made
    pairs = list(zip(values, _arrays.sizes(eqn), strict=True))
    if len(made) == 1:
      return [self._meet(pairs, eqn.outvars[0], made[0])]
    return [  # each result is that of one operand
      self._meet([pair], var, value)
      for pair, var, value in zip(pairs, eqn.outvars, made, strict=True)
    ]

  def _meet(
    self, pairs: Sequence[tuple[Value, int]], var: core.Var, made: Value
  ) -> Value:
    """A result of operands, each with its size, and what they come from."""
    size = math.prod(_arrays.shape_of(var))
    full = [
      v for v, n in pairs if n == size and (v.makers or v.origin is not None)
    ]
    makers = _NONE.union(*(v.makers for v in full))
    for value in full:
      if value.origin is not None:
        for number in makers:
          self._met[number][value.origin, size * value.copies] = None
    return dataclasses.replace(made, makers=makers)

  def returned(
    self,
    values: Sequence[Value],
    sizes: Sequence[int],
    paths: Sequence[str],
    parameters: Mapping[str, Parameter],
  ) -> None:
    """Takes note of the gradients that the program hands back.

    Args:
      values: the results.
      sizes: the elements of each.
      paths: where each stands in what the function returns.
      parameters: those of the program; a result that stands where one of them
        does is its gradient, and the only result that of the only one, if it
        has as many elements.
    """
    ranked = _ranked(parameters, paths)
    for value, size, path in zip(values, sizes, paths, strict=True):
      near = [
        name
        for name in parameters
        if len(parameters) == 1
        or _ends_alike(name, path)
        or _ends_alike(ranked.get(name, name), path)
      ]
      if len(near) == 1:
        for number in value.makers:
          self._met[number][near[0], size] = None

  def owner(
    self, record: Record, parameters: Mapping[str, Parameter]
  ) -> str | None:
    """The parameter whose gradient a record's product makes, if one is."""
    if not _may(record):
      return None
    for path, size in self._met.get(record.number, {}):
      if path in parameters and parameters[path].size == size:
        return path
    return None


def _may(record: Record) -> bool:
  """A product by a parameter is the gradient of an activation."""
  return record.phase == "backward" and not record.params


def _ranked(names: Iterable[str], paths: Sequence[str]) -> dict[str, str]:
  """The names with the place of their argument among those with parameters.

  `jax.grad(f, argnums=(0, 2))` gives a tuple: "arg2/kernel" is "1/kernel" in
  it. There are none if a name has no result: other arguments may be meant.
  """
  parts = {name: name.split("/") for name in names}
  first = {p[0] for p in parts.values() if _ARGUMENT.fullmatch(p[0])}
  order = sorted(first, key=lambda argument: int(argument[3:]))
  found = {
    name: "/".join((str(order.index(p[0])), *p[1:]))
    for name, p in parts.items()
    if p[0] in first
  }
  known = all(
    any(_ends_alike(name, path) for path in paths) for name in found.values()
  )
  return found if known else {}


def _ends_alike(name: str, path: str) -> bool:
  """Whether one path is the end of the other."""
  mine, other = name.split("/"), path.split("/") if path else []
  n = min(len(mine), len(other))
  return n > 0 and mine[-n:] == other[-n:]
