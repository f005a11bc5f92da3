"""The walk: one pass over a program, into its loops and calls."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jax.extend import core

from jbin import errors
from jbin.cost import _rules, _tally
from jbin.cost._blocks import NONE, full
from jbin.cost._live import (
  Flags,
  Liveness,
  constants,
  inner_jaxpr,
  open_jaxpr,
)
from jbin.cost._record import Branches, Tally
from jbin.cost._trace import Parameter
from jbin.cost._values import (
  Shape,
  Step,
  Value,
  dtype_bits,
  join,
  main_operand,
  shift,
  unknown,
)

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


class Trips:
  """How often each `while` goes round, as far as the caller says."""

  def __init__(self, given: int | Mapping[str, int] | None):
    self.given = given
    self.asked: list[str] = []

  def of(self, where: str) -> int | None:
    """The trips of the loop at that place."""
    self.asked.append(where)
    if isinstance(self.given, Mapping):
      return self.given.get(where)
    return self.given

  def check(self) -> None:
    """Raises if the caller named a loop that is not in the program."""
    if not isinstance(self.given, Mapping):
      return
    if lost := sorted(set(self.given) - set(self.asked)):
      raise errors.UserError(
        f"trips names {lost}, but the program's while loops are at"
        f" {sorted(set(self.asked))}"
      )


class Walker:
  """Carries values through jaxprs and writes down what they cost."""

  def __init__(self, trips: Trips):
    self.live = Liveness()
    self.trips = trips
    self.constants: dict[str, Parameter] = {}
    # Each closed-over array that may be a weight, by its path.
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
    shape, dtype = tuple(jnp.shape(const)), jnp.result_type(const)
    if len(shape) < MATRIX:
      step = Step("", "a constant", shape, str(dtype), None, None)
      return Value(varies=full(shape), step=step)
    if id(const) not in self._const_paths:
      self._kept.append(const)
      path = f"const{len(self._const_paths)}"
      self._const_paths[id(const)] = path
      wide = dtype_bits(dtype)
      self.constants[path] = Parameter(math.prod(shape), "kernel", wide)
    path = self._const_paths[id(const)]
    step = Step("", path, shape, str(dtype), None, None)
    return Value(origin=path, varies=full(shape), step=step)

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
      tally.add(_shared(inside, _copies(eqn)))
      return made
    if name == "scan":
      return self.scan(eqn, values, used, place, tally)
    if name == "cond":
      return self.cond(eqn, values, used, place, tally)
    if name == "while":
      return self.loop(eqn, values, place, tally)
    where = place.name(eqn)
    phase = _phase(where, values)
    _tally.add(eqn, values, where, phase, tally)
    key = (*place.keys, id(eqn))
    made = _rules.propagate(eqn, values, _rules.unique(self._scales, key))
    main = main_operand(values, _rules.sizes(eqn))
    way = None if main is None else values[main].step
    after = phase in ("backward", "update")
    return [
      dataclasses.replace(
        v, after=v.after or after, step=_step(eqn, var, v, where, way)
      )
      for v, var in zip(made, eqn.outvars, strict=True)
    ]

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
    consts = values[:n_consts]
    carry = values[n_consts : n_consts + n_carry]
    rows = [
      dataclasses.replace(
        shift(v, -1), copies=v.copies * (length if v.origin else 1)
      )
      for v in values[n_consts + n_carry :]
    ]
    _, needed = self.live.scan(eqn, used)
    inside = place.inside(eqn)
    shapes = _rules.out_shapes(eqn)
    while True:
      made, cost = self.run(body, [*consts, *carry, *rows], needed, inside)
      joined = _joined(carry, made[:n_carry], shapes)
      if joined == carry:
        break
      carry = joined
    tally.add(cost, length)
    stacked = [
      _stacked(v, shape, length)
      for v, shape in zip(made[n_carry:], shapes[n_carry:], strict=True)
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
    """All branches are looked at; the dearest is counted."""
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
      tally.branches.append(
        Branches(
          where=place.name(eqn),
          ace=tuple(cost.ace for cost in costs),
          macs=tuple(cost.macs for cost in costs),
          counted=costs.index(dearest),
        )
      )
    shapes = _rules.out_shapes(eqn)
    made = [
      join(each, shape)
      for *each, shape in zip(*(m for m, _ in runs), shapes, strict=True)
    ]
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
    """A `while`: counted if the caller said its trips, else listed."""
    n_test, n_body = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    consts = values[n_test : n_test + n_body]
    body = eqn.params["body_jaxpr"]
    carry = values[n_test + n_body :]
    inside, shapes = place.inside(eqn), _rules.out_shapes(eqn)
    while True:
      used = (True,) * len(carry)
      made, cost = self.run(body, [*consts, *carry], used, inside)
      joined = _joined(carry, made, shapes)
      if joined == carry:
        break
      carry = joined
    test = eqn.params["cond_jaxpr"]
    _, asked = self.run(test, [*values[:n_test], *carry], (True,), inside)
    where = place.name(eqn)
    trips = self.trips.of(where)
    if trips is None:
      row = _tally.not_counted(eqn, where)
      row = dataclasses.replace(row, macs_per_trip=cost.macs + asked.macs)
      tally.not_counted += [row, *cost.not_counted, *asked.not_counted]
    else:
      tally.add(cost, trips)
      tally.add(asked, trips + 1)
      tally.notes.append(
        f"while at {where or 'the top'}: {trips:,} trips, as the caller said"
      )
    return carry


def _phase(where: str, values: Sequence[Value]) -> str:
  """What an equation is there for; JAX's transformations leave their names."""
  if "rematted_computation" in where:
    return "recompute"
  if "transpose(" in where:
    return "backward"
  differentiated = "jvp(" in where
  late = any(v.after for v in values) and not differentiated
  return "update" if late else "forward"


def _step(
  eqn: core.JaxprEqn,
  var: core.Var,
  value: Value,
  where: str,
  before: Step | None,
) -> Step:
  name = eqn.primitive.name
  if name == "name":
    name = f"name[{eqn.params['name']}]"
  shape, dtype = _rules.shape_of(var), str(_rules.dtype_of(var))
  return Step(name, where, shape, dtype, value.bits, before)


def _joined(
  before: list[Value], after: list[Value], shapes: Sequence[Shape]
) -> list[Value]:
  """A loop's carry after one more trip, at its widest."""
  return [
    dataclasses.replace(join((a, b), shape), copies=a.copies, step=b.step)
    for a, b, shape in zip(before, after, shapes, strict=False)
  ]


def _shared(cost: Tally, devices: int) -> Tally:
  """The work of a `shard_map`: what its devices do together."""
  whole = Tally()
  whole.add(cost, devices)
  whole.records = [
    dataclasses.replace(r, devices=r.devices * devices) for r in whole.records
  ]
  whole.collectives = cost.collectives
  return whole


def _work(cost: Tally) -> int:
  return sum(cost.marks.values()) + sum(cost.elementwise.values())


def _stacked(value: Value, shape: Shape, length: int) -> Value:
  """The rows that a scan put side by side."""
  row, first = shift(value, 1), full(shape, (0,))
  return dataclasses.replace(
    row,
    varies=(*first, *row.varies),
    scale_blocks=(*(first if row.scales else NONE), *row.scale_blocks),
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
