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

  `ahead`: a product of parameters alone is done once, not at each run.
  """
  name = eqn.primitive.name
  cost = _kernels.find(eqn)
  if cost is not None:
    _kernels.add(eqn, values, where, phase, cost, tally)
  elif name in _products.PRODUCTS and not _products.is_complex(eqn):
    record = dataclasses.replace(
      _products.record(eqn, values), phase=phase, devices=_shards.split(eqn)
    )
    if not record.params:
      record = dataclasses.replace(record, name=where)
    if any(v.data for v in values) or not ahead:
      tally.records.append(record)
    else:  # a rotation of a kernel, say: done once, not for each example
      tally.on_weights += 2 * record.macs
  elif name == "name":
    _mark(eqn, phase, tally)
  elif name in _primitives.COLLECTIVES:
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
  if not work or not floats:
    return
  tally.phases[phase] = tally.phases.get(phase, 0) + work
  if any(v.data for v in values):
    name = eqn.primitive.name
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
