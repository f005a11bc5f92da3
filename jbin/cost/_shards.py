"""Work that devices share: `shard_map`, and arrays whose type says how."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from jax.extend import core

from jbin.cost import _arrays, _primitives, _steps
from jbin.cost._arrays import shape_of
from jbin.cost._blocks import Blocks, Shape, axes_of, divided
from jbin.cost._place import Place
from jbin.cost._values import Value

# After these all devices of the axes have the same.
_ALIKE = ("psum", "pmax", "pmin", "all_gather")


def differing(eqn: core.JaxprEqn, values: Sequence[Value]) -> frozenset[str]:
  """The mesh axes along which devices give an equation different operands."""
  found = frozenset().union(*(v.devices for v in values))
  own = eqn.primitive.name == "axis_index"
  return found | set(_arrays.mesh_axes(eqn)) if own else found


def left(eqn: core.JaxprEqn, devices: frozenset[str]) -> frozenset[str]:
  """The mesh axes along which they have different results."""
  name = eqn.primitive.name
  if name not in _primitives.COLLECTIVES:
    return devices
  along = set(_arrays.mesh_axes(eqn))
  return devices - along if name.startswith(_ALIKE) else devices | along


def split(eqn: core.JaxprEqn) -> int:
  """How many devices share an equation on arrays whose type says so."""
  sizes: dict[str, int] = {}
  for var in (*eqn.invars, *eqn.outvars):
    sharding = getattr(var.aval, "sharding", None)
    if sharding is not None and not sharding.mesh.empty:
      axes = set(_axes(sharding.spec))
      sizes |= {a: n for a, n in sharding.mesh.shape.items() if a in axes}
  return math.prod(sizes.values())


def inside(place: Place, eqn: core.JaxprEqn) -> Place:
  """The place of the program that each device of a `shard_map` runs."""
  mesh = {**dict(place.mesh), **eqn.params["mesh"].shape}
  return dataclasses.replace(place.inside(eqn), mesh=tuple(mesh.items()))


def entering(eqn: core.JaxprEqn, values: Sequence[Value]) -> list[Value]:
  """What one device of a `shard_map` has of each operand."""
  return [
    _part(value, shape_of(var), _cuts(eqn, spec))
    for var, value, spec in zip(
      eqn.invars, values, eqn.params["in_specs"], strict=True
    )
  ]


def leaving(eqn: core.JaxprEqn, values: Sequence[Value]) -> list[Value]:
  """The results of all devices of a `shard_map` together."""
  own = frozenset(eqn.params["newly_manual_axes"])
  return [
    _whole(value, _cuts(eqn, spec), own)
    for value, spec in zip(values, eqn.params["out_specs"], strict=True)
  ]


def parts(eqn: core.JaxprEqn) -> list[int]:
  """Into how many parts a `shard_map` divides each of its operands."""
  return [_parts(_cuts(eqn, spec)) for spec in eqn.params["in_specs"]]


class _Cut(NamedTuple):
  """How an axis is divided."""

  parts: int
  names: frozenset[str]


_Cuts = Mapping[int, _Cut]


def _part(value: Value, shape: Shape, cuts: _Cuts) -> Value:
  """The value on one device."""

  def cut(blocks: Blocks) -> Blocks:
    found = []
    for axis, n in blocks:
      by = cuts[axis].parts if axis in cuts else 1
      found.append((axis, divided(n, by, shape[axis] // by)))
    return tuple((axis, n) for axis, n in found if n > 1)

  local = tuple(
    n // (cuts[axis].parts if axis in cuts else 1)
    for axis, n in enumerate(shape)
  )
  n = _parts(cuts)

  def names(axes: Iterable[int]) -> frozenset[str]:
    return frozenset().union(*(cuts[a].names for a in axes if a in cuts))

  return dataclasses.replace(
    value,
    varies=cut(value.varies),
    scale_blocks=cut(value.scale_blocks),
    devices=value.devices | names(cuts),
    scale_devices=value.scale_devices | names(axes_of(value.scale_blocks)),
    copies=value.copies * (n if value.origin else 1),
    step=_steps.part(value, "shard_map", local, n, "part"),
  )


def _whole(value: Value, cuts: _Cuts, mesh: frozenset[str]) -> Value:
  """The value of all devices together."""

  def spread(blocks: Blocks, devices: frozenset[str]) -> Blocks:
    found = dict(blocks)
    for axis, cut in cuts.items():
      if axis in found or cut.names & devices:
        found[axis] = found.get(axis, 1) * cut.parts
    return tuple(sorted(found.items()))

  return dataclasses.replace(
    value,
    varies=spread(value.varies, value.devices),
    scale_blocks=spread(value.scale_blocks, value.scale_devices),
    devices=value.devices - mesh,
    scale_devices=value.scale_devices - mesh,
    copies=max(1, value.copies // _parts(cuts)),
  )


def _cuts(eqn: core.JaxprEqn, spec: Any) -> _Cuts:
  """How each axis is divided that is."""
  sizes = eqn.params["mesh"].shape
  found = {axis: _axes([entry]) for axis, entry in enumerate(spec)}
  return {
    axis: _Cut(math.prod(sizes[name] for name in names), frozenset(names))
    for axis, names in found.items()
    if names
  }


def _parts(cuts: _Cuts) -> int:
  return math.prod(cut.parts for cut in cuts.values())


def _axes(spec: Iterable[Any]) -> list[str]:
  """The mesh axes of a partition spec."""
  found: list[str] = []
  for entry in spec:
    found += entry if isinstance(entry, tuple) else [entry]
  return [axis for axis in found if axis is not None]
