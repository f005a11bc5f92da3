"""How bits, origin and scales flow through the primitives of a program."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax.extend import core

from jbin import bits as tags
from jbin.cost import _blocks, _primitives
from jbin.cost._blocks import NONE, axes_of, full
from jbin.cost._values import (
  Shape,
  Value,
  dtype_bits,
  join,
  mix,
  move,
  reshape_moves,
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
  shape = out_shapes(eqn)[0]
  return dataclasses.replace(
    mix(values, sizes(eqn)),
    varies=_blocks.merge((v.varies for v in values), shape),
  )


def _sum(eqn: core.JaxprEqn, values: list[Value], _: int) -> list[Value]:
  """Sums end a tag; that of two integers takes one bit more."""
  wide = max((v.bits or 0 for v in values), default=0)
  return [_integer(eqn, values, _elementwise(eqn, values), wide + 1)]


def _reduce_sum(eqn: core.JaxprEqn, values: list[Value], _: int) -> list[Value]:
  n = max(1, sizes(eqn)[0] // max(1, math.prod(out_shapes(eqn)[0])))
  found = _reduce(eqn, values)[0]
  return [_integer(eqn, values, found, (values[0].bits or 0) + n.bit_length())]


def _integer(
  eqn: core.JaxprEqn, values: Sequence[Value], found: Value, bits: int
) -> Value:
  """The value with `bits` if all operands are integers that have a tag."""
  dtype = dtype_of(eqn.outvars[0])
  if any(v.bits is None or v.scales for v in values):
    return found
  if not jnp.issubdtype(dtype, jnp.integer):
    return found
  return dataclasses.replace(found, bits=min(bits, dtype_bits(dtype)))


def _name(eqn: core.JaxprEqn, values: list[Value], _: int) -> list[Value]:
  tag = tags.parse(eqn.params["name"])
  if isinstance(tag, tags.BitsTag):
    return [dataclasses.replace(values[0], bits=tag.bits)]
  return [values[0]]


def _scaled(eqn: core.JaxprEqn, values: list[Value], scale: int) -> list[Value]:
  """`mul` or `div` of codes by a scale keeps the bits; anything else not."""
  plain = _elementwise(eqn, values)
  tagged = [i for i, v in enumerate(values) if v.bits is not None]
  if eqn.primitive.name == "mul" and len(tagged) == len(values):
    return [_integer(eqn, values, plain, sum(v.bits or 0 for v in values))]
  if len(tagged) != 1 or (eqn.primitive.name == "div" and tagged != [0]):
    return [plain]
  codes, by = values[tagged[0]], values[1 - tagged[0]]
  shape = out_shapes(eqn)[0]
  if in_shapes(eqn)[tagged[0]] != shape:
    return [plain]
  # Along two axes and more: another activation. Along one, as a batch of one
  # has it, a scale for each channel looks the same, and is what is meant.
  whole = full(shape)
  if by.data and len(whole) > 1 and axes_of(by.varies) == axes_of(whole):
    return [plain]
  return [
    dataclasses.replace(
      plain,
      bits=codes.bits,
      scales=codes.scales | by.scales | {scale},
      scale_blocks=_blocks.merge((codes.scale_blocks, by.varies), shape),
    )
  ]


def _select(eqn: core.JaxprEqn, values: list[Value], _: int) -> list[Value]:
  which, cases, shape = values[0], values[1:], out_shapes(eqn)[0]
  chosen = join(cases, shape)
  data = chosen.data or which.data
  apart = len({v.scales for v in cases if v.scales}) > 1
  scales = (chosen.scale_blocks, which.varies if apart else NONE)
  return [
    dataclasses.replace(
      chosen,
      data=data,
      # where(w > 0, 1, -1) is made of w.
      origin=None if data else chosen.origin or which.origin,
      copies=max(chosen.copies, which.copies),
      after=chosen.after or which.after,
      varies=_blocks.merge((chosen.varies, which.varies), shape),
      scale_blocks=_blocks.merge(scales, shape),
    )
  ]


def _moved(eqn: core.JaxprEqn, value: Value, moves: _blocks.Moves) -> Value:
  return move(value, moves, in_shapes(eqn)[0], out_shapes(eqn)[0])


def _transpose(eqn: core.JaxprEqn, values: list[Value], _: int) -> list[Value]:
  order = eqn.params["permutation"]
  return [_moved(eqn, values[0], {int(d): (i,) for i, d in enumerate(order)})]


def _reshape(eqn: core.JaxprEqn, values: list[Value], _: int) -> list[Value]:
  before, after = in_shapes(eqn)[0], out_shapes(eqn)[0]
  value = values[0]
  if (order := eqn.params.get("dimensions")) is not None:
    turned = tuple(before[d] for d in order)
    moves = {int(d): (i,) for i, d in enumerate(order)}
    value = move(value, moves, before, turned)
    before = turned
  return [move(value, reshape_moves(before, after), before, after)]


def _broadcast(eqn: core.JaxprEqn, values: list[Value], _: int) -> list[Value]:
  dims = eqn.params["broadcast_dimensions"]
  return [_moved(eqn, values[0], {i: (int(d),) for i, d in enumerate(dims)})]


def _broadcast_to(
  eqn: core.JaxprEqn, values: list[Value], _: int
) -> list[Value]:
  rank = len(in_shapes(eqn)[0])
  by = len(out_shapes(eqn)[0]) - rank
  return [_moved(eqn, values[0], {d: (d + by,) for d in range(rank)})]


def _same_dims(eqn: core.JaxprEqn, values: list[Value], _: int) -> list[Value]:
  """Slices, pads, flips, maxima of windows: elements of the operand.

  The axes stay, some may now have length 1.
  """
  before = in_shapes(eqn)[0]
  moves = {d: (d,) for d in range(len(before))}
  made = [move(values[0], moves, before, shape) for shape in out_shapes(eqn)]
  if eqn.primitive.name == "pad":  # along a padded axis the value varies
    shape = out_shapes(eqn)[0]
    config = eqn.params["padding_config"]
    padded = full(shape, (d for d, p in enumerate(config) if any(p)))
    made = [
      dataclasses.replace(v, varies=_blocks.merge((v.varies, padded), shape))
      for v in made
    ]
  return made


def _update(eqn: core.JaxprEqn, values: list[Value], _: int) -> list[Value]:
  shape = out_shapes(eqn)[0]
  return [dataclasses.replace(join(values[:2], shape), varies=full(shape))]


def _concatenate(
  eqn: core.JaxprEqn, values: list[Value], _: int
) -> list[Value]:
  axis = eqn.params["dimension"]
  return [_side_by_side(eqn, values, axis)]


def _stack(eqn: core.JaxprEqn, values: list[Value], _: int) -> list[Value]:
  axis = eqn.params["axis"]
  rank = len(in_shapes(eqn)[0])
  moves = {d: (d + (d >= axis),) for d in range(rank)}
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


def _unstack(eqn: core.JaxprEqn, values: list[Value], _: int) -> list[Value]:
  return _without(eqn, values[0], (eqn.params["axis"],))


def _squeeze(eqn: core.JaxprEqn, values: list[Value], _: int) -> list[Value]:
  return _without(eqn, values[0], eqn.params["dimensions"])


def _reduce(eqn: core.JaxprEqn, values: list[Value]) -> list[Value]:
  varies = _blocks.merge((v.varies for v in values), in_shapes(eqn)[0])
  value = dataclasses.replace(mix(values, sizes(eqn)), varies=varies)
  return _without(eqn, value, eqn.params["axes"])


def _without(
  eqn: core.JaxprEqn, value: Value, axes: Sequence[int]
) -> list[Value]:
  before = in_shapes(eqn)[0]
  kept = [d for d in range(len(before)) if d not in axes]
  moves = {d: (i,) for i, d in enumerate(kept)}
  return [move(value, moves, before, shape) for shape in out_shapes(eqn)]


def _gather(eqn: core.JaxprEqn, values: list[Value], _: int) -> list[Value]:
  table, where = values[0], values[1]
  dims, shape = eqn.params["dimension_numbers"], out_shapes(eqn)[0]
  before = in_shapes(eqn)[0]
  offset = [int(d) for d in dims.offset_dims]
  rest = tuple(d for d in range(len(shape)) if d not in offset)
  gone = {*dims.collapsed_slice_dims, *dims.operand_batching_dims}
  kept = [d for d in range(len(before)) if d not in gone]
  moves: dict[int, tuple[int, ...]] = {
    d: (o,) for d, o in zip(kept, offset, strict=True)
  }
  # An axis that indices point into shows along the axes of the indices.
  for d in map(int, (*dims.start_index_map, *dims.operand_batching_dims)):
    moves[d] = (*moves.get(d, ()), *rest)
  found = move(table, moves, before, shape)
  data = table.data or where.data
  return [
    dataclasses.replace(
      found,
      data=data,
      origin=None if data else table.origin,
      varies=full(shape),
    )
  ]


def _transfer(eqn: core.JaxprEqn, values: list[Value], _: int) -> list[Value]:
  """Elements of other devices: the bits stay, they may vary everywhere."""
  return [
    dataclasses.replace(
      value,
      varies=full(shape),
      scale_blocks=full(shape) if value.scales else NONE,
    )
    for value, shape in zip(values, out_shapes(eqn), strict=False)
  ]


def _iota(eqn: core.JaxprEqn, values: list[Value], _: int) -> list[Value]:
  shape = out_shapes(eqn)[0]
  return [Value(varies=full(shape, (eqn.params["dimension"],)))]


_RULES: dict[str, Rule] = {
  "name": _name,
  "add": _sum,
  "add_any": _sum,
  "sub": _sum,
  "reduce_sum": _reduce_sum,
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
  "all_gather": _transfer,
  "all_gather_invariant": _transfer,
  "all_to_all": _transfer,
  "ppermute": _transfer,
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
