"""What one equation that calls no other adds to the tally."""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
from jax.extend import core

from jbin import bits as tags
from jbin.cost import _arrays, _kernels, _primitives, _products, _rules, _shards
from jbin.cost._record import Collective, Lookup, NotCounted, Tally
from jbin.cost._values import Value, dtype_bits


def add(
  eqn: core.JaxprEqn,
  values: list[Value],
  where: str,
  phase: str,
  tally: Tally,
  *,
  ahead: bool = True,
) -> None:
  """Writes down a product, a kernel, a transfer or element-wise work.

  `ahead`: a product of parameters alone is done once, not at each run. With a
  state, or with what is drawn at each run, it is not of parameters alone.
  """
  name = eqn.primitive.name
  cost = _kernels.find(eqn)
  once = ahead and not any(v.data or v.changes for v in values)
  if cost is not None:
    _kernels.add(eqn, values, where, phase, cost, tally, once=once)
  elif name in _products.PRODUCTS and not _products.is_complex(eqn):
    record = dataclasses.replace(
      _products.record(eqn, values), phase=phase, devices=_shards.split(eqn)
    )
    if not record.params:
      record = dataclasses.replace(record, name=where)
    if not once:
      tally.records.append(record)
    else:  # a rotation of a kernel, say: done once, not for each example
      tally.on_weights += 2 * record.macs
  elif name == "name":
    _mark(eqn, phase, tally)
  elif name in _primitives.COLLECTIVES:
    if _arrays.own_axes(eqn):  # of a vmap: a reduction
      _work(eqn, values, phase, tally)
    if _arrays.mesh_axes(eqn):
      tally.collectives.append(_collective(eqn, where, phase))
  elif name in _primitives.COUNTED:
    _work(eqn, values, phase, tally)
  else:
    tally.not_counted.append(not_counted(eqn, where))


def not_counted(eqn: core.JaxprEqn, where: str) -> NotCounted:
  """The line of an equation that has no price."""
  name = eqn.primitive.name
  reason = _primitives.LISTED.get(name) or _primitives.OPAQUE.get(name)
  if name in _products.PRODUCTS:
    reason = "a product of complex numbers"
  return NotCounted(
    primitive=_kernels.label(eqn),
    where=where,
    shapes=tuple(_arrays.in_shapes(eqn)),
    reason=reason or _primitives.NO_RULE,
    matrix_like=name not in _primitives.LISTED,
  )


def sent(row: Collective) -> NotCounted:
  """The line of a transfer in a loop of which nobody knows the trips."""
  return NotCounted(
    primitive=row.primitive,
    where=row.where,
    shapes=(),
    reason=f"a device sends {row.bytes * row.repeats:,} bytes in each trip of a"
    " loop that is not counted",
    matrix_like=False,
  )


def _mark(eqn: core.JaxprEqn, phase: str, tally: Tally) -> None:
  tag = tags.parse(eqn.params["name"])
  if isinstance(tag, tags.OpTag) and phase == "forward":
    n = _arrays.sizes(eqn)[0] * tag.per_element
    tally.marks[tag.name] = tally.marks.get(tag.name, 0) + n


def _collective(eqn: core.JaxprEqn, where: str, phase: str) -> Collective:
  n = sum(
    math.prod(_arrays.shape_of(v)) * dtype_bits(_arrays.dtype_of(v))
    for v in eqn.invars
  )
  return Collective(
    primitive=eqn.primitive.name,
    axes=_arrays.mesh_axes(eqn),
    where=where,
    bytes=-(-n // 8),
    phase=phase,
  )


def _work(
  eqn: core.JaxprEqn, values: list[Value], phase: str, tally: Tally
) -> None:
  if (look := _lookup(eqn, values)) is not None:
    tally.lookups.append(look)
  work = _rules.work(eqn)
  floats = any(
    jnp.issubdtype(_arrays.dtype_of(v) or jnp.int32, jnp.floating)
    for v in eqn.invars
  )
  if not work:
    return
  name, data = eqn.primitive.name, any(v.data for v in values)
  if not floats:
    if data:
      tally.integers[name] = tally.integers.get(name, 0) + work
    return
  tally.phases[phase] = tally.phases.get(phase, 0) + work
  if data:
    tally.elementwise[name] = tally.elementwise.get(name, 0) + work
  else:
    tally.on_weights += work


def _lookup(eqn: core.JaxprEqn, values: list[Value]) -> Lookup | None:
  """Rows that are read from a parameter, or the one where data points."""
  name = eqn.primitive.name
  at = name == "dynamic_slice" and any(v.data for v in values[1:])
  if not (at or name == "gather") or values[0].origin is None:
    return None
  wide = values[0].bits or dtype_bits(_arrays.dtype_of(eqn.invars[0]))
  n = math.prod(_arrays.out_shapes(eqn)[0])
  return Lookup(values[0].origin, n, wide)
