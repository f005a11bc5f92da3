"""The walk: one pass over a program, into its loops and calls."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax.extend import core

from jbin import bits as tags
from jbin.cost import _primitives, _products, _rules
from jbin.cost._live import (
  Flags,
  Liveness,
  constants,
  inner_jaxpr,
  open_jaxpr,
)
from jbin.cost._record import NotCounted, Tally
from jbin.cost._values import Value, join, long_dims, shift_dims, unknown

MATRIX = 2  # a constant of this many axes is taken for a weight


@dataclasses.dataclass(frozen=True)
class Place:
  """Where the walk is: the calls around it, as keys and as names."""

  keys: tuple[int, ...] = ()
  stack: str = ""

  def inside(self, eqn: core.JaxprEqn) -> Place:
    """The place of an equation's inner program."""
    return Place((*self.keys, id(eqn)), self.name(eqn))

  def name(self, eqn: core.JaxprEqn) -> str:
    """The name stack of an equation, from the top."""
    own = str(eqn.source_info.name_stack)
    return "/".join(part for part in (self.stack, own) if part)


class Walker:
  """Carries values through jaxprs and writes down what they cost."""

  def __init__(self):
    self.live = Liveness()
    self.const_sizes: dict[str, int] = {}
    # Elements of each closed-over array that may be a weight, by its path.
    self._const_paths: dict[int, str] = {}
    self._scales: dict[tuple[int, ...], int] = {}
    self._kept: list[Any] = []  # so that no id is used twice

  def run(
    self,
    jaxpr: Any,
    values: Sequence[Value],
    used: Flags,
    place: Place,
  ) -> tuple[list[Value], Tally]:
    """The results' values, and the cost of computing those in `used`."""
    body = open_jaxpr(jaxpr)
    tally = Tally()
    env: dict[core.Var, Value] = {}
    env.update(zip(body.invars, values, strict=True))
    for var, const in zip(body.constvars, constants(jaxpr), strict=True):
      env[var] = self.constant(const)

    def read(var: core.Var | core.Literal) -> Value:
      if isinstance(var, core.Literal):
        return self.constant(var.val)
      # Only operands that nothing reads are missing.
      return env.get(var) or unknown(_rules.shape_of(var), data=True)

    for eqn, outs in zip(body.eqns, self.live.uses(body, used)[1], strict=True):
      if outs is None:
        continue
      made = self.step(eqn, [read(v) for v in eqn.invars], outs, place, tally)
      env.update(zip(eqn.outvars, made, strict=True))
    return [read(var) for var in body.outvars], tally

  def constant(self, const: Any) -> Value:
    """A closed-over array; from two axes on it may be a weight."""
    shape = tuple(jnp.shape(const))
    if len(shape) < MATRIX:
      return Value(varies=long_dims(shape))
    if id(const) not in self._const_paths:
      self._kept.append(const)
      path = f"const{len(self._const_paths)}"
      self._const_paths[id(const)] = path
      self.const_sizes[path] = math.prod(shape)
    return Value(origin=self._const_paths[id(const)], varies=long_dims(shape))

  def step(
    self,
    eqn: core.JaxprEqn,
    values: list[Value],
    used: Flags,
    place: Place,
    tally: Tally,
  ) -> list[Value]:
    """One equation."""
    name = eqn.primitive.name
    inner = inner_jaxpr(eqn)
    if inner is not None:
      made, inside = self.run(inner, values, used, place.inside(eqn))
      tally.add(inside, _copies(eqn))
      return made
    if name == "scan":
      return self.scan(eqn, values, used, place, tally)
    if name == "cond":
      return self.cond(eqn, values, used, place, tally)
    if name == "while":
      return self.loop(eqn, values, place, tally)
    if name in _products.PRODUCTS and not _products.is_complex(eqn):
      record = _products.record(eqn, values)
      if not record.params:
        record = dataclasses.replace(record, name=place.name(eqn))
      if any(v.data for v in values):
        tally.records.append(record)
      else:  # a rotation of a kernel, say: done once, not for each example
        tally.on_weights += 2 * record.macs
    elif name == "name":
      _mark(eqn, tally)
    elif name in _primitives.COUNTED:
      _count_work(eqn, values, tally)
    else:
      tally.not_counted.append(_not_counted(eqn, place))
    key = (*place.keys, id(eqn))
    scale = _rules.unique(self._scales, key)
    return _rules.propagate(eqn, values, scale)

  def scan(
    self,
    eqn: core.JaxprEqn,
    values: list[Value],
    used: Flags,
    place: Place,
    tally: Tally,
  ) -> list[Value]:
    """The body once, times the length; carries are joined until they rest."""
    body, length = eqn.params["jaxpr"], eqn.params["length"]
    n_consts, n_carry = eqn.params["num_consts"], eqn.params["num_carry"]
    shapes = [_rules.shape_of(v) for v in open_jaxpr(body).invars]
    consts = values[:n_consts]
    carry = values[n_consts : n_consts + n_carry]
    rows = [
      dataclasses.replace(
        shift_dims(v, -1, shape),
        copies=v.copies * (length if v.origin else 1),
      )
      for v, shape in zip(
        values[n_consts + n_carry :],
        shapes[n_consts + n_carry :],
        strict=True,
      )
    ]
    _, needed = self.live.scan(eqn, used)
    inside = place.inside(eqn)
    while True:
      made, cost = self.run(body, [*consts, *carry, *rows], needed, inside)
      joined = _joined(carry, made[:n_carry])
      if joined == carry:
        break
      carry = joined
    tally.add(cost, length)
    stacked = [
      _stacked(v, _rules.shape_of(var), length)
      for v, var in zip(made[n_carry:], eqn.outvars[n_carry:], strict=True)
    ]
    return [*carry, *stacked]

  def cond(
    self,
    eqn: core.JaxprEqn,
    values: list[Value],
    used: Flags,
    place: Place,
    tally: Tally,
  ) -> list[Value]:
    """All branches are looked at, the dearest is counted, a note says so."""
    inside = place.inside(eqn)
    runs = [
      self.run(branch, values[1:], used, inside)
      for branch in eqn.params["branches"]
    ]
    costs = [cost for _, cost in runs]
    dearest = max(costs, key=lambda cost: (cost.ace, _work(cost)))
    others = [n for c in costs if c is not dearest for n in c.not_counted]
    tally.add(dearest)
    tally.not_counted += [n for n in others if n not in tally.not_counted]
    if len({(cost.ace, _work(cost)) for cost in costs}) > 1:
      each = ", ".join(f"{cost.ace:,}" for cost in costs)
      tally.notes.append(
        f"cond at {place.name(eqn) or 'the top'}: branches cost {each} ACE;"
        " the largest is counted"
      )
    made = [join(branch) for branch in zip(*(m for m, _ in runs), strict=True)]
    data = values[0].data
    return [
      dataclasses.replace(v, data=True, origin=None) if data else v
      for v in made
    ]

  def loop(
    self,
    eqn: core.JaxprEqn,
    values: list[Value],
    place: Place,
    tally: Tally,
  ) -> list[Value]:
    """A `while`: its trips are unknown, so it is listed and not counted."""
    skip, n_consts = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    consts = values[skip : skip + n_consts]
    body = eqn.params["body_jaxpr"]
    carry = values[skip + n_consts :]
    used = (True,) * len(carry)
    inside = place.inside(eqn)
    while True:
      made, cost = self.run(body, [*consts, *carry], used, inside)
      joined = _joined(carry, made)
      if joined == carry:
        break
      carry = joined
    row = _not_counted(eqn, place)
    tally.not_counted.append(dataclasses.replace(row, macs_per_trip=cost.macs))
    tally.not_counted += cost.not_counted
    return carry


def _joined(before: list[Value], after: list[Value]) -> list[Value]:
  """A loop's carry after one more trip, at its widest."""
  return [
    dataclasses.replace(join((a, b)), copies=a.copies)
    for a, b in zip(before, after, strict=True)
  ]


def _work(cost: Tally) -> int:
  return sum(cost.marks.values()) + sum(cost.elementwise.values())


def _stacked(value: Value, shape: tuple[int, ...], length: int) -> Value:
  """The rows that a scan put side by side."""
  row = shift_dims(value, 1, shape)
  first = frozenset({0}) & long_dims(shape)
  return dataclasses.replace(
    row,
    varies=row.varies | first,
    scale_dims=row.scale_dims | (first if row.scales else frozenset()),
    copies=max(1, row.copies // length),
  )


def _copies(eqn: core.JaxprEqn) -> int:
  """How many devices do the work of a `shard_map` between them, else 1."""
  if eqn.primitive.name != "shard_map":
    return 1
  axes = set()
  for spec in eqn.params["in_specs"]:
    for entry in spec:
      axes.update(entry if isinstance(entry, tuple) else (entry,))
  mesh = eqn.params["mesh"].shape
  return math.prod(mesh[axis] for axis in axes if axis in mesh)


def _mark(eqn: core.JaxprEqn, tally: Tally) -> None:
  tag = tags.parse(eqn.params["name"])
  if isinstance(tag, tags.OpTag):
    n = _rules.sizes(eqn)[0] * tag.per_element
    tally.marks[tag.name] = tally.marks.get(tag.name, 0) + n


def _count_work(eqn: core.JaxprEqn, values: list[Value], tally: Tally) -> None:
  work = _rules.work(eqn)
  floats = any(
    jnp.issubdtype(_rules.dtype_of(v) or jnp.int32, jnp.floating)
    for v in eqn.invars
  )
  if not work or not floats:
    return
  if any(v.data for v in values):
    name = eqn.primitive.name
    tally.elementwise[name] = tally.elementwise.get(name, 0) + work
  else:
    tally.on_weights += work


def _not_counted(eqn: core.JaxprEqn, place: Place) -> NotCounted:
  name = eqn.primitive.name
  reason = _primitives.REASONS.get(name, _primitives.NO_RULE)
  if name in _products.PRODUCTS:
    reason = "a product of complex numbers"
  return NotCounted(
    primitive=name,
    where=place.name(eqn),
    shapes=tuple(_rules.in_shapes(eqn)),
    reason=reason,
  )
