"""The walk: one pass over a program, into its loops and calls."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.extend import core

from jbin.cost import _arrays, _gradients, _rules, _shards, _steps, _tally
from jbin.cost._blocks import NONE, full
from jbin.cost._live import (
  Flags,
  Liveness,
  branches,
  constants,
  inner_jaxpr,
  open_jaxpr,
)
from jbin.cost._place import Place, Trips, phase
from jbin.cost._record import Branches, Tally
from jbin.cost._trace import Parameter
from jbin.cost._values import (
  Shape,
  Step,
  Value,
  dtype_bits,
  join,
  shift,
  unknown,
)

MATRIX = 2  # a constant of this many axes is taken for a weight


class Seen(NamedTuple):
  """What the walk found at one equation."""

  phase: str
  values: list[Value]


class Walker:
  """Carries values through jaxprs and writes down what they cost."""

  def __init__(self, trips: Trips, *, training: bool = False):
    self.live = Liveness()
    self.trips = trips
    self.training = training  # what is made of parameters alone is not kept
    self.gradients = _gradients.Gradients()
    self.seen: dict[tuple[int, ...], Seen] = {}
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
      return env.get(var) or unknown(_arrays.shape_of(var), data=True)

    for eqn, outs in zip(body.eqns, self.live.uses(body, used)[1], strict=True):
      if outs is None:
        continue
      values = [read(v) for v in eqn.invars]
      made = self.step(eqn, values, outs, place, tally)
      what_for = phase(place.name(eqn), values)
      self.seen[(*place.keys, id(eqn))] = Seen(what_for, made)
      env.update(zip(eqn.outvars, made, strict=True))
    return [read(var) for var in body.outvars], tally

  def constant(self, const: Any) -> Value:
    """A closed-over array; from two axes on it may be a weight."""
    shape, dtype = tuple(jnp.shape(const)), jnp.result_type(const)
    if len(shape) < MATRIX:
      step = Step("", "a constant", shape, _arrays.dtype_name(dtype))
      return Value(varies=full(shape), step=step)
    if id(const) not in self._const_paths:
      self._kept.append(const)
      path = f"const{len(self._const_paths)}"
      self._const_paths[id(const)] = path
      wide = dtype_bits(dtype)
      self.constants[path] = Parameter(math.prod(shape), "kernel", wide)
    path = self._const_paths[id(const)]
    step = Step("", f"the constant {path}", shape, _arrays.dtype_name(dtype))
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
    if name == "shard_map":
      return self.shard(eqn, values, used, place, tally)
    if (inner := inner_jaxpr(eqn)) is not None:
      made, cost = self.run(inner, values, used, place.inside(eqn))
      tally.add(cost)
      return made
    if name == "scan":
      return self.scan(eqn, values, used, place, tally)
    if name == "cond":
      return self.cond(eqn, values, used, place, tally)
    if name == "while":
      return self.loop(eqn, values, used, place, tally)
    where = place.name(eqn)
    what_for = phase(where, values)
    part = Tally()
    _tally.add(eqn, values, where, what_for, part, ahead=not self.training)
    key = (*place.keys, id(eqn))
    made = _rules.propagate(eqn, values, _rules.unique(self._scales, key))
    if said := _rules.note(eqn, values, where):
      part.notes.append(said)
    if part.records:
      makers = self.gradients.take(part.records, 0)
      made = [dataclasses.replace(v, makers=makers) for v in made]
    else:
      made = self.gradients.follow(eqn, values, made)
    if part.records and any(v.changes and v.origin is None for v in values):
      # A state times a weight is an activation.
      made = [dataclasses.replace(v, data=True, origin=None) for v in made]
    devices = _shards.differing(eqn, values)
    tally.add(part, devices=place.sharers(devices))
    devices = _shards.left(eqn, devices)
    after = what_for in ("backward", "update")
    steps = _steps.made(eqn, values, made, where)
    return [
      dataclasses.replace(v, after=v.after or after, devices=devices, step=step)
      for v, step in zip(made, steps, strict=True)
    ]

  def shard(
    self,
    eqn: core.JaxprEqn,
    values: list[Value],
    used: Flags,
    place: Place,
    tally: Tally,
  ) -> list[Value]:
    """What each device of a mesh does; each equation counts for all."""
    made, cost = self.run(
      eqn.params["jaxpr"],
      _shards.entering(eqn, values),
      used,
      _shards.inside(place, eqn),
    )
    tally.add(cost)
    return _shards.leaving(eqn, made)

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
    inner = open_jaxpr(body).invars[n_consts + n_carry :]
    rows = [
      dataclasses.replace(
        shift(v, -1),
        copies=v.copies * (length if v.origin else 1),
        step=_steps.part(v, "scan", _arrays.shape_of(var), length, "row"),
      )
      for v, var in zip(values[n_consts + n_carry :], inner, strict=True)
    ]
    carry, rest, cost = self.settled(
      body,
      values[:n_consts],
      values[n_consts : n_consts + n_carry],
      rows,
      self.live.scan(eqn, used)[1],
      place.inside(eqn),
    )
    tally.add(cost, length)
    shapes = _arrays.out_shapes(eqn)
    stacked = [
      _stacked(v, shape, length)
      for v, shape in zip(rest, shapes[n_carry:], strict=True)
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
      self.run(branch, values[1:], used, inside) for branch in branches(eqn)
    ]
    costs = [cost for _, cost in runs]
    dearest = max(costs, key=lambda cost: (cost.ace, _work(cost)))
    tally.add(dearest)
    for other in costs:
      if other is not dearest:
        tally.keep(other)
        rows = other.not_counted
        tally.not_counted += [n for n in rows if n not in tally.not_counted]
    if len({(cost.ace, _work(cost)) for cost in costs}) > 1:
      tally.branches.append(
        Branches(
          where=place.name(eqn),
          ace=tuple(cost.ace for cost in costs),
          macs=tuple(cost.macs for cost in costs),
          counted=costs.index(dearest),
        )
      )
    shapes = _arrays.out_shapes(eqn)
    made = [
      join(_without_fill(each), shape)
      for *each, shape in zip(*(m for m, _ in runs), shapes, strict=True)
    ]
    data, where = values[0].data, place.name(eqn)
    changes = values[0].changes
    return [
      dataclasses.replace(
        value,
        data=data or value.data,
        changes=changes or value.changes,
        origin=None if data else value.origin,
        devices=value.devices | values[0].devices,
        step=_steps.one_of(eqn, i, each, value, where),
      )
      for i, (value, *each) in enumerate(
        zip(made, *(m for m, _ in runs), strict=True)
      )
    ]

  def loop(
    self,
    eqn: core.JaxprEqn,
    values: list[Value],
    used: Flags,
    place: Place,
    tally: Tally,
  ) -> list[Value]:
    """A `while`: counted if the caller said its trips, else listed."""
    n_test, n_body = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    name, inside = self.trips.name(place, eqn), place.inside(eqn)
    carry, _, cost = self.settled(
      eqn.params["body_jaxpr"],
      values[n_test : n_test + n_body],
      values[n_test + n_body :],
      [],
      self.live.loop(eqn, used)[1],
      inside,
    )
    test = eqn.params["cond_jaxpr"]
    _, asked = self.run(test, [*values[:n_test], *carry], (True,), inside)
    trips = self.trips.of(name)
    if trips is None:
      row = _tally.not_counted(eqn, place.name(eqn))
      row = dataclasses.replace(
        row,
        reason=f"{row.reason}={{{name!r}: n}}",
        macs_per_trip=cost.macs + asked.macs,
      )
      tally.not_counted.append(row)
      for part in (cost, asked):
        tally.keep(part)
        tally.not_counted += part.not_counted
        tally.not_counted += map(_tally.sent, part.collectives)
    else:
      tally.add(cost, trips)
      tally.add(asked, trips + 1)
      tally.notes.append(f"while {name!r}: {trips:,} trips, as the caller said")
    return carry

  def settled(
    self,
    body: Any,
    consts: list[Value],
    first: list[Value],
    rows: list[Value],
    used: Flags,
    place: Place,
  ) -> tuple[list[Value], list[Value], Tally]:
    """A loop's last carry, its other results, and the cost of one trip.

    The carry is joined with what a trip makes of it until it rests.
    """
    carry, n, trip = first, len(first), 0
    shapes = [_arrays.shape_of(v) for v in open_jaxpr(body).outvars[:n]]
    while True:
      made, cost = self.run(body, [*consts, *carry, *rows], used, place)
      joined = _joined(carry, made[:n], shapes, late=trip > n)
      if joined == carry:
        return joined, made[n:], cost
      carry = [
        dataclasses.replace(v, step=_steps.again(old, v, place.stack))
        for old, v in zip(first, joined, strict=True)
      ]
      trip += 1


def _joined(
  before: list[Value],
  after: list[Value],
  shapes: Sequence[Shape],
  *,
  late: bool,
) -> list[Value]:
  """A loop's carry after one more trip, at its widest.

  Integers that get wider with each trip have the width of their dtype.
  """
  found = []
  for old, new, shape in zip(before, after, shapes, strict=True):
    both = join((old, new), shape)
    bits = None if late and both.bits != old.bits else both.bits
    found.append(
      dataclasses.replace(both, bits=bits, copies=old.copies, step=new.step)
    )
  return found


def _without_fill(values: list[Value]) -> list[Value]:
  """What the branches give, less those that fill with one constant.

  JAX writes zeros for what only another branch keeps for the backward pass.
  """
  bare = Value()
  kept = [v for v in values if v != bare]
  return kept or values


def _work(cost: Tally) -> int:
  return sum(cost.marks.values()) + sum(cost.elementwise.values())


def _stacked(value: Value, shape: Shape, length: int) -> Value:
  """The rows that a scan put side by side."""
  row, first = shift(value, 1), full(shape, (0,))
  return dataclasses.replace(
    row,
    varies=(*first, *row.varies),
    scale_blocks=(*(first if row.scales else NONE), *row.scale_blocks),
    copies=max(1, row.copies // max(1, length)),
  )
