"""How bits, origin and scales flow through the primitives of a program."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

from jax.extend import core

from jbin import bits as tags
from jbin.cost import _primitives
from jbin.cost._values import (
  NONE,
  Dims,
  Shape,
  Value,
  join,
  long_dims,
  map_dims,
  mix,
  reshape_moves,
  union,
  unknown,
)

Rule = Callable[[core.JaxprEqn, list[Value], int], list[Value]]


def propagate(
  eqn: core.JaxprEqn, values: list[Value], scale: int
) -> list[Value]:
  """The values of an equation's results.

  Args:
    eqn: any equation without an inner jaxpr.
    values: what is known of its operands.
    scale: the number of this equation, in case it multiplies by a scale.
  """
  name = eqn.primitive.name
  if name in _RULES:
    return _RULES[name](eqn, values, scale)
  if name in _primitives.IDENTITIES:
    return values[: len(eqn.outvars)]
  if name in _primitives.ELEMENTWISE:
    return [_elementwise(eqn, values)]
  if name in _primitives.REDUCTIONS and "axes" in eqn.params:
    return _reduce(eqn, values)
  data = any(v.data for v in values)
  mixed = mix(values, sizes(eqn))
  return [
    dataclasses.replace(mixed, varies=unknown(shape, data=data).varies)
    for shape in out_shapes(eqn)
  ]


def shape_of(var: core.Var | core.Literal) -> Shape:
  """The shape of a variable; () for what has none (tokens)."""
  return tuple(getattr(var.aval, "shape", ()))


def dtype_of(var: core.Var | core.Literal) -> Any:
  """The dtype of a variable; None for what has none (tokens)."""
  return getattr(var.aval, "dtype", None)


def in_shapes(eqn: core.JaxprEqn) -> list[Shape]:
  """The shapes of the operands."""
  return [shape_of(v) for v in eqn.invars]


def out_shapes(eqn: core.JaxprEqn) -> list[Shape]:
  """The shapes of the results."""
  return [shape_of(v) for v in eqn.outvars]


def sizes(eqn: core.JaxprEqn) -> list[int]:
  """The number of elements of each operand."""
  return [math.prod(shape) for shape in in_shapes(eqn)]


def _elementwise(eqn: core.JaxprEqn, values: list[Value]) -> Value:
  # Operands have the result's rank (axes of length 1 stretch) or none.
  return dataclasses.replace(
    mix(values, sizes(eqn)), varies=union(v.varies for v in values)
  )


def _name(eqn: core.JaxprEqn, values: list[Value], _: int) -> list[Value]:
  tag = tags.parse(eqn.params["name"])
  if isinstance(tag, tags.BitsTag):
    return [dataclasses.replace(values[0], bits=tag.bits)]
  return [values[0]]


def _scaled(eqn: core.JaxprEqn, values: list[Value], scale: int) -> list[Value]:
  """`mul` or `div` of codes by a scale keeps the bits; anything else not."""
  plain = _elementwise(eqn, values)
  tagged = [i for i, v in enumerate(values) if v.bits is not None]
  if len(tagged) != 1 or (eqn.primitive.name == "div" and tagged != [0]):
    return [plain]
  codes, by = values[tagged[0]], values[1 - tagged[0]]
  shape = out_shapes(eqn)[0]
  if in_shapes(eqn)[tagged[0]] != shape:
    return [plain]
  long = long_dims(shape)
  # Along two axes and more: another activation. Along one, as a batch of one
  # has it, a scale for each channel looks the same, and is what is meant.
  if by.data and len(long) > 1 and by.varies == long:
    return [plain]
  return [
    dataclasses.replace(
      plain,
      bits=codes.bits,
      scales=codes.scales | by.scales | {scale},
      scale_dims=codes.scale_dims | by.varies,
    )
  ]


def _select(eqn: core.JaxprEqn, values: list[Value], _: int) -> list[Value]:
  which, cases = values[0], values[1:]
  chosen = join(cases)
  data = chosen.data or which.data
  apart = len({v.scales for v in cases if v.scales}) > 1
  return [
    dataclasses.replace(
      chosen,
      data=data,
      # where(w > 0, 1, -1) is made of w.
      origin=None if data else chosen.origin or which.origin,
      copies=max(chosen.copies, which.copies),
      varies=chosen.varies | which.varies,
      scale_dims=chosen.scale_dims | (which.varies if apart else NONE),
    )
  ]


def _transpose(eqn: core.JaxprEqn, values: list[Value], _: int) -> list[Value]:
  order = eqn.params["permutation"]
  move = {int(d): frozenset({i}) for i, d in enumerate(order)}
  return [map_dims(values[0], move, out_shapes(eqn)[0])]


def _reshape(eqn: core.JaxprEqn, values: list[Value], _: int) -> list[Value]:
  before, after = in_shapes(eqn)[0], out_shapes(eqn)[0]
  value = values[0]
  if (order := eqn.params.get("dimensions")) is not None:
    move = {int(d): frozenset({i}) for i, d in enumerate(order)}
    before = tuple(before[d] for d in order)
    value = map_dims(value, move, before)
  return [map_dims(value, reshape_moves(before, after), after)]


def _broadcast(eqn: core.JaxprEqn, values: list[Value], _: int) -> list[Value]:
  dims = eqn.params["broadcast_dimensions"]
  move = {i: frozenset({int(d)}) for i, d in enumerate(dims)}
  return [map_dims(values[0], move, out_shapes(eqn)[0])]


def _broadcast_to(
  eqn: core.JaxprEqn, values: list[Value], _: int
) -> list[Value]:
  before, after = in_shapes(eqn)[0], out_shapes(eqn)[0]
  by = len(after) - len(before)
  move = {d: frozenset({d + by}) for d in range(len(before))}
  return [map_dims(values[0], move, after)]


def _same_dims(eqn: core.JaxprEqn, values: list[Value], _: int) -> list[Value]:
  """Slices, pads, flips, maxima of windows: elements of the operand.

  The axes stay, some may now have length 1.
  """
  move = {d: frozenset({d}) for d in range(len(in_shapes(eqn)[0]))}
  made = [map_dims(values[0], move, shape) for shape in out_shapes(eqn)]
  if eqn.primitive.name == "pad":  # along a padded axis the value varies
    padded = frozenset(
      d for d, p in enumerate(eqn.params["padding_config"]) if any(p)
    )
    padded &= long_dims(out_shapes(eqn)[0])
    made = [dataclasses.replace(v, varies=v.varies | padded) for v in made]
  return made


def _update(eqn: core.JaxprEqn, values: list[Value], _: int) -> list[Value]:
  shape = out_shapes(eqn)[0]
  joined = join(values[:2])
  return [dataclasses.replace(joined, varies=long_dims(shape))]


def _concatenate(
  eqn: core.JaxprEqn, values: list[Value], _: int
) -> list[Value]:
  axis = eqn.params["dimension"]
  return [_side_by_side(eqn, values, axis)]


def _stack(eqn: core.JaxprEqn, values: list[Value], _: int) -> list[Value]:
  axis, shape = eqn.params["axis"], out_shapes(eqn)[0]
  move = {
    d: frozenset({d + (d >= axis)}) for d in range(len(in_shapes(eqn)[0]))
  }
  moved = [map_dims(v, move, shape) for v in values]
  return [_side_by_side(eqn, moved, axis)]


def _side_by_side(
  eqn: core.JaxprEqn, values: Sequence[Value], axis: int
) -> Value:
  joined = join(values)
  apart = len({v.scales for v in values}) > 1
  along: Dims = frozenset({axis}) & long_dims(out_shapes(eqn)[0])
  return dataclasses.replace(
    joined,
    origin=mix(list(values), sizes(eqn)).origin,
    varies=joined.varies | along,
    scale_dims=joined.scale_dims | (along if apart else NONE),
  )


def _unstack(eqn: core.JaxprEqn, values: list[Value], _: int) -> list[Value]:
  return _without(eqn, values[0], (eqn.params["axis"],))


def _squeeze(eqn: core.JaxprEqn, values: list[Value], _: int) -> list[Value]:
  return _without(eqn, values[0], eqn.params["dimensions"])


def _reduce(eqn: core.JaxprEqn, values: list[Value]) -> list[Value]:
  mixed = mix(values, sizes(eqn))
  varies = union(v.varies for v in values)
  value = dataclasses.replace(mixed, varies=varies)
  return _without(eqn, value, eqn.params["axes"])


def _without(
  eqn: core.JaxprEqn, value: Value, axes: Sequence[int]
) -> list[Value]:
  rank = len(in_shapes(eqn)[0])
  kept = [d for d in range(rank) if d not in axes]
  move = {d: frozenset({i}) for i, d in enumerate(kept)}
  return [map_dims(value, move, shape) for shape in out_shapes(eqn)]


def _gather(eqn: core.JaxprEqn, values: list[Value], _: int) -> list[Value]:
  table, where = values[0], values[1]
  dims, shape = eqn.params["dimension_numbers"], out_shapes(eqn)[0]
  offset = [int(d) for d in dims.offset_dims]
  rest = frozenset(range(len(shape))) - set(offset)
  gone = {*dims.collapsed_slice_dims, *dims.operand_batching_dims}
  kept = [d for d in range(len(in_shapes(eqn)[0])) if d not in gone]
  move = {d: frozenset({o}) for d, o in zip(kept, offset, strict=True)}
  # An axis that indices point into shows along the axes of the indices.
  for d in (*dims.start_index_map, *dims.operand_batching_dims):
    move[int(d)] = move.get(int(d), NONE) | rest
  found = map_dims(table, move, shape)
  data = table.data or where.data
  return [
    dataclasses.replace(
      found,
      data=data,
      origin=None if data else table.origin,
      varies=long_dims(shape),
    )
  ]


def _iota(eqn: core.JaxprEqn, values: list[Value], _: int) -> list[Value]:
  axis = frozenset({eqn.params["dimension"]})
  return [Value(varies=axis & long_dims(out_shapes(eqn)[0]))]


_RULES: dict[str, Rule] = {
  "name": _name,
  "mul": _scaled,
  "div": _scaled,
  "select_n": _select,
  "transpose": _transpose,
  "reshape": _reshape,
  "broadcast_in_dim": _broadcast,
  "broadcast_to": _broadcast_to,
  "slice": _same_dims,
  "pad": _same_dims,
  "rev": _same_dims,
  "split": _same_dims,
  "dynamic_slice": _same_dims,
  "tile": _same_dims,
  "reduce_window_max": _same_dims,
  "reduce_window_min": _same_dims,
  "dynamic_update_slice": _update,
  "concatenate": _concatenate,
  "stack": _stack,
  "unstack": _unstack,
  "squeeze": _squeeze,
  "gather": _gather,
  "iota": _iota,
}


def unique(pool: dict[tuple[int, ...], int], key: tuple[int, ...]) -> int:
  """A small number for a key, the same each time it is asked for."""
  return pool.setdefault(key, len(pool))


def work(eqn: core.JaxprEqn) -> int:
  """Scalar operations of an equation that is no product, 0 if it moves data."""
  name = eqn.primitive.name
  if name in _primitives.ELEMENTWISE:
    return math.prod(out_shapes(eqn)[0])
  if name in _primitives.REDUCTIONS:
    return sizes(eqn)[0]
  if name in _primitives.WINDOWS:
    window = eqn.params["window_dimensions"]
    return math.prod(itertools.chain(out_shapes(eqn)[0], window))
  if name in _primitives.SCATTERS:
    return sizes(eqn)[2]
  return 0
