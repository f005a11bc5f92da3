"""How bits, origin and scales go with elements that only change their place."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from jax.extend import core

from jbin.cost import _arrays, _blocks
from jbin.cost._arrays import in_shapes, out_shapes, sizes
from jbin.cost._blocks import NONE, Blocks, axes_of, full
from jbin.cost._values import Value, join, mix, move, reshape

Rule = Callable[[core.JaxprEqn, list[Value]], list[Value]]


def _moved(eqn: core.JaxprEqn, value: Value, moves: Mapping[int, int]) -> Value:
  return move(value, moves, in_shapes(eqn)[0], out_shapes(eqn)[0])


def _transpose(eqn: core.JaxprEqn, values: list[Value]) -> list[Value]:
  order = eqn.params["permutation"]
  return [_moved(eqn, values[0], {int(d): i for i, d in enumerate(order)})]


def _reshape(eqn: core.JaxprEqn, values: list[Value]) -> list[Value]:
  before, after = in_shapes(eqn)[0], out_shapes(eqn)[0]
  value = values[0]
  if (order := eqn.params.get("dimensions")) is not None:
    turned = tuple(before[d] for d in order)
    moves = {int(d): i for i, d in enumerate(order)}
    value = move(value, moves, before, turned)
    before = turned
  return [reshape(value, before, after)]


def _broadcast(eqn: core.JaxprEqn, values: list[Value]) -> list[Value]:
  dims = eqn.params["broadcast_dimensions"]
  return [_moved(eqn, values[0], {i: int(d) for i, d in enumerate(dims)})]


def _broadcast_to(eqn: core.JaxprEqn, values: list[Value]) -> list[Value]:
  rank = len(in_shapes(eqn)[0])
  by = len(out_shapes(eqn)[0]) - rank
  return [_moved(eqn, values[0], {d: d + by for d in range(rank)})]


def _same_dims(eqn: core.JaxprEqn, values: list[Value]) -> list[Value]:
  """Slices, flips: the axes stay, some may now have length 1."""
  before = in_shapes(eqn)[0]
  moves = {d: d for d in range(len(before))}
  return [move(values[0], moves, before, shape) for shape in out_shapes(eqn)]


def _slice_at(eqn: core.JaxprEqn, values: list[Value]) -> list[Value]:
  """A slice that begins where other operands say."""
  (found,), where = _same_dims(eqn, values), values[1:]
  if any(v.changes for v in where):
    found = dataclasses.replace(found, changes=True)
  if not any(v.data for v in where):
    return [found]
  return [dataclasses.replace(found, data=True, origin=None)]


def _pad(eqn: core.JaxprEqn, values: list[Value]) -> list[Value]:
  """Along a padded axis the value varies."""
  (value,), shape = _same_dims(eqn, values), out_shapes(eqn)[0]
  config = eqn.params["padding_config"]
  padded = full(shape, (d for d, p in enumerate(config) if any(p)))
  varies = _blocks.merge((value.varies, padded), shape)
  return [dataclasses.replace(value, varies=varies)]


def _window(eqn: core.JaxprEqn, values: list[Value]) -> list[Value]:
  """Maxima of windows are elements too, but runs have other borders now."""
  (value,), shape = _same_dims(eqn, values), out_shapes(eqn)[0]
  wide = [d for d, n in enumerate(eqn.params["window_dimensions"]) if n > 1]

  def cut(blocks: Blocks) -> Blocks:
    axes = axes_of(blocks) & set(wide)
    return _blocks.merge((blocks, full(shape, axes)), shape)

  return [
    dataclasses.replace(
      value, varies=cut(value.varies), scale_blocks=cut(value.scale_blocks)
    )
  ]


def _update(eqn: core.JaxprEqn, values: list[Value]) -> list[Value]:
  shape = out_shapes(eqn)[0]
  return [dataclasses.replace(join(values[:2], shape), varies=full(shape))]


def _concatenate(eqn: core.JaxprEqn, values: list[Value]) -> list[Value]:
  axis = eqn.params["dimension"]
  return [_side_by_side(eqn, values, axis)]


def _stack(eqn: core.JaxprEqn, values: list[Value]) -> list[Value]:
  axis = eqn.params["axis"]
  rank = len(in_shapes(eqn)[0])
  moves = {d: d + (d >= axis) for d in range(rank)}
  return [_side_by_side(eqn, [_moved(eqn, v, moves) for v in values], axis)]


def _side_by_side(
  eqn: core.JaxprEqn, values: Sequence[Value], axis: int
) -> Value:
  shape = out_shapes(eqn)[0]
  joined = join(values, shape)
  along = full(shape, (axis,))
  apart = len({v.scales for v in values}) > 1
  scales = tuple(
    (d, shape[d] if d == axis else n) for d, n in joined.scale_blocks
  )
  return dataclasses.replace(
    joined,
    origin=mix(list(values), sizes(eqn)).origin,
    varies=_blocks.merge((joined.varies, along), shape),
    scale_blocks=_blocks.merge((scales, along if apart else NONE), shape),
  )


def _unstack(eqn: core.JaxprEqn, values: list[Value]) -> list[Value]:
  return without(eqn, values[0], (eqn.params["axis"],))


def _squeeze(eqn: core.JaxprEqn, values: list[Value]) -> list[Value]:
  return without(eqn, values[0], eqn.params["dimensions"])


def without(
  eqn: core.JaxprEqn, value: Value, axes: Sequence[int]
) -> list[Value]:
  """The value, or each of several results, with the axes gone."""
  before = in_shapes(eqn)[0]
  kept = [d for d in range(len(before)) if d not in axes]
  moves = {d: i for i, d in enumerate(kept)}
  return [move(value, moves, before, shape) for shape in out_shapes(eqn)]


def _gather(eqn: core.JaxprEqn, values: list[Value]) -> list[Value]:
  table, where = values[0], values[1]
  dims, shape = eqn.params["dimension_numbers"], out_shapes(eqn)[0]
  before = in_shapes(eqn)[0]
  offset = [int(d) for d in dims.offset_dims]
  rest = tuple(d for d in range(len(shape)) if d not in offset)
  gone = {*dims.collapsed_slice_dims, *dims.operand_batching_dims}
  kept = [d for d in range(len(before)) if d not in gone]
  found = move(table, dict(zip(kept, offset, strict=True)), before, shape)
  # An axis that indices point into shows along the axes of the indices.
  pointed = {*dims.start_index_map, *dims.operand_batching_dims}
  scales = found.scale_blocks
  if axes_of(table.scale_blocks) & pointed:
    scales = _blocks.merge((scales, full(shape, rest)), shape)
  data = table.data or where.data
  return [
    dataclasses.replace(
      found,
      data=data,
      changes=table.changes or where.changes,
      origin=None if data else table.origin,
      varies=full(shape),
      scale_blocks=scales,
    )
  ]


def _all_gather(eqn: core.JaxprEqn, values: list[Value]) -> list[Value]:
  """The parts of all devices, one after another; each may have its scale."""
  value, params = values[0], eqn.params
  axis, by = params["all_gather_dimension"], params["axis_size"]
  names = set(_arrays.mesh_axes(eqn))

  def gathered(blocks: Blocks, *, differ: bool) -> Blocks:
    found = dict(blocks)
    if not params["tiled"]:  # a new axis for the devices
      found = {d + (d >= axis): n for d, n in found.items()}
    if differ or axis in found:
      found[axis] = found.get(axis, 1) * by
    return tuple(sorted(found.items()))

  return [
    dataclasses.replace(
      value,
      varies=gathered(value.varies, differ=bool(names & value.devices)),
      scale_blocks=gathered(
        value.scale_blocks, differ=bool(names & value.scale_devices)
      ),
      scale_devices=value.scale_devices - names,
      copies=max(1, value.copies // by),
    )
  ]


def _transfer(eqn: core.JaxprEqn, values: list[Value]) -> list[Value]:
  """Elements of other devices: the bits stay, they may vary everywhere."""
  return [
    dataclasses.replace(
      value,
      varies=full(shape),
      scale_blocks=full(shape) if value.scales else NONE,
    )
    for value, shape in zip(values, out_shapes(eqn), strict=False)
  ]


def _iota(eqn: core.JaxprEqn, values: list[Value]) -> list[Value]:
  shape = out_shapes(eqn)[0]
  return [Value(varies=full(shape, (eqn.params["dimension"],)))]


RULES: dict[str, Rule] = {
  "transpose": _transpose,
  "reshape": _reshape,
  "broadcast_in_dim": _broadcast,
  "broadcast_to": _broadcast_to,
  "slice": _same_dims,
  "pad": _pad,
  "rev": _same_dims,
  "split": _same_dims,
  "dynamic_slice": _slice_at,
  "tile": _same_dims,
  "reduce_window_max": _window,
  "reduce_window_min": _window,
  "dynamic_update_slice": _update,
  "concatenate": _concatenate,
  "stack": _stack,
  "unstack": _unstack,
  "squeeze": _squeeze,
  "gather": _gather,
  "iota": _iota,
  "all_gather": _all_gather,
  "all_gather_invariant": _all_gather,
  "all_gather_reduced": _all_gather,
  "all_to_all": _transfer,
  "ppermute": _transfer,
}
