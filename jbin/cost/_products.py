"""The record of one convolution or dot product."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core

from jbin.cost import _blocks
from jbin.cost._arrays import dtype_of, shape_of, sizes
from jbin.cost._record import Operand, Record
from jbin.cost._values import Shape, Value, dtype_bits

PRODUCTS = frozenset(
  {"dot_general", "conv_general_dilated", "ragged_dot_general"}
)


def record(eqn: core.JaxprEqn, values: list[Value]) -> Record:
  """The record of a product; its name is still that of the parameter."""
  if eqn.primitive.name == "conv_general_dilated":
    return _conv(eqn, values)
  if eqn.primitive.name == "ragged_dot_general":
    return _ragged(eqn, values)
  return _dot(eqn, values)


def is_complex(eqn: core.JaxprEqn) -> bool:
  """Whether a factor is complex: no convention here has a price for that."""
  return any(
    jnp.issubdtype(dtype_of(v), jnp.complexfloating) for v in eqn.invars
  )


def _operand(
  var: core.Var | core.Literal,
  value: Value,
  contracted: Sequence[int],
  runs: int | None = None,
) -> Operand:
  """One side; the scale's `runs` are counted here if they are not given."""
  dtype, shape = dtype_of(var), shape_of(var)
  wide = dtype_bits(dtype)
  tagged = value.bits is not None
  if runs is None:
    found = dict(value.scale_blocks)
    runs = math.prod(found.get(axis, 1) for axis in contracted)
    if 1 < runs == math.prod(shape[axis] for axis in contracted):
      runs = 0
  return Operand(
    bits=wide if value.bits is None else value.bits,
    dtype_bits=wide,
    tagged=tagged,
    is_float=not tagged and jnp.issubdtype(dtype, jnp.floating),
    size=math.prod(shape),
    runs=runs if tagged else 1,
    dtype=str(dtype),
    step=value.step,
  )


def _weight_side(values: list[Value]) -> int | None:
  """Which factor is a parameter (the right one, if both are)."""
  for side in (1, 0):
    if values[side].origin is not None:
      return side
  return None


def _common(
  eqn: core.JaxprEqn,
  values: list[Value],
  operands: list[Operand],
  weight: int | None,
) -> dict[str, Any]:
  """The fields that both kinds of product fill in the same way."""
  swap = weight == 0
  found = [
    (v.origin, operand.bits)
    for v, operand in zip(values, operands, strict=True)
    if v.origin is not None
  ]
  if not swap:  # the weight first: the layer is named after it
    found.reverse()
  return {
    "name": found[0][0] if found else "",
    "bias": False,
    "lhs": operands[1] if swap else operands[0],
    "rhs": operands[0] if swap else operands[1],
    "weights": 0
    if weight is None
    else sizes(eqn)[weight] * values[weight].copies,
    "primitive": eqn.primitive.name,
    "params": tuple(path for path, _ in found),
    "param_bits": tuple(n for _, n in found),
    "outputs": math.prod(shape_of(eqn.outvars[0])),
    "output_bits": dtype_bits(dtype_of(eqn.outvars[0])),
  }


def _dot(eqn: core.JaxprEqn, values: list[Value]) -> Record:
  contract, batch = eqn.params["dimension_numbers"]
  shapes = [shape_of(v) for v in eqn.invars]
  operands = [
    _operand(var, value, dims)
    for var, value, dims in zip(eqn.invars, values, contract, strict=True)
  ]
  weight = _weight_side(values)
  act = 1 if weight == 0 else 0
  free = [
    [d for d in range(len(s)) if d not in c and d not in b]
    for s, c, b in zip(shapes, contract, batch, strict=True)
  ]

  def pick(side: int, dims: Sequence[int]) -> Shape:
    return tuple(int(shapes[side][d]) for d in dims)

  together = pick(0, batch[0])
  inner = pick(0, contract[0])
  rows, columns = pick(act, free[act]), pick(1 - act, free[1 - act])
  # The first axis that is not contracted is the batch of examples.
  outer = [d for d in range(len(shapes[act])) if d not in contract[act]]
  shown = [d for d in range(len(shapes[act])) if d not in outer[:1]]
  kept = len(outer) > 0
  return Record(
    kind="matmul" if weight is None else "dense",
    in_shape=pick(act, shown),
    out_shape=(together + rows)[int(kept) :] + columns,
    kernel=(together[1:] if weight is None else together) + inner + columns,
    strides=None,
    padding=None,
    groups=1,
    macs=math.prod(together + inner + rows + columns),
    **_common(eqn, values, operands, weight),
  )


def _ragged(eqn: core.JaxprEqn, values: list[Value]) -> Record:
  """A product of groups of rows: each row meets the matrix of its group.

  How the rows are shared out is known at run time only; that each belongs to
  one group is enough for the sum. Rows past the last group count too.
  """
  numbers = eqn.params["ragged_dot_dimension_numbers"]
  contract, batch = numbers.dot_dimension_numbers
  groups = tuple(numbers.rhs_group_dimensions)
  lhs, rhs = (shape_of(v) for v in eqn.invars[:2])
  operands = [
    _operand(var, value, dims)
    for var, value, dims in zip(eqn.invars, values, contract, strict=False)
  ]
  inner = tuple(lhs[d] for d in contract[0])
  gone = {*contract[1], *batch[1], *groups}
  columns = tuple(n for d, n in enumerate(rhs) if d not in gone)
  weight = _weight_side(values[:2])
  return Record(
    kind="matmul" if weight is None else "dense",
    in_shape=lhs[1:],
    out_shape=shape_of(eqn.outvars[0])[1:],
    kernel=(*(rhs[d] for d in (*batch[1], *groups)), *inner, *columns),
    strides=None,
    padding=None,
    groups=math.prod(rhs[d] for d in groups),
    macs=math.prod((*lhs, *columns)),
    **_common(eqn, values[:2], operands, weight),
  )


def _conv(eqn: core.JaxprEqn, values: list[Value]) -> Record:
  params = eqn.params
  spec = params["dimension_numbers"]
  groups = params["feature_group_count"] * params["batch_group_count"]
  lhs, rhs = (shape_of(v) for v in eqn.invars)
  out = shape_of(eqn.outvars[0])
  window = tuple(rhs[d] for d in spec.rhs_spec[2:])
  operands = [
    _operand(var, value, (), _conv_runs(eqn, value, side))
    for side, (var, value) in enumerate(zip(eqn.invars, values, strict=True))
  ]
  weight = 1 if values[1].origin is not None else None
  each = out[spec.out_spec[0]] * out[spec.out_spec[1]] * rhs[spec.rhs_spec[1]]
  taps, inside = (
    math.prod(_taps(eqn, i, padding=padding) for i in range(len(window)))
    for padding in (True, False)
  )
  return Record(
    kind="conv" if groups == 1 else "conv_grouped",
    in_shape=_channels_last(lhs, spec.lhs_spec),
    out_shape=_channels_last(out, spec.out_spec),
    kernel=(*window, rhs[spec.rhs_spec[1]], rhs[spec.rhs_spec[0]]),
    strides=tuple(params["window_strides"]),
    padding=_padding(eqn, window),
    groups=groups,
    macs=each * taps,
    padded=each * (taps - inside),
    **_common(eqn, values, operands, weight),
  )


def _conv_runs(eqn: core.JaxprEqn, value: Value, side: int) -> int:
  """Runs of channels on which the scale of one side is constant, in a group.

  0 if each channel has its own, or if it varies under the window: no integer
  convolution of the usual form computes that.
  """
  spec = eqn.params["dimension_numbers"]
  dims = (spec.lhs_spec, spec.rhs_spec)[side]
  rhs = shape_of(eqn.invars[1])
  found = dict(value.scale_blocks)
  for axis, tap in zip(dims[2:], spec.rhs_spec[2:], strict=True):
    if rhs[tap] > 1 and axis in found:
      return 0
  runs, channels = found.get(dims[1], 1), rhs[spec.rhs_spec[1]]
  if side == 0:
    groups = eqn.params["feature_group_count"]
    runs = _blocks.divided(runs, groups, channels)
  return 0 if 1 < runs == channels else runs


def _channels_last(shape: Shape, spec: Sequence[int]) -> Shape:
  return (*(shape[d] for d in spec[2:]), shape[spec[1]])


def _taps(eqn: core.JaxprEqn, axis: int, *, padding: bool) -> int:
  """Multiplications along one spatial axis, summed over its positions.

  Padding counts as input, if `padding`. The zeros that a dilated input (a
  transposed convolution) has between its elements do not.
  """
  params = eqn.params
  spec = params["dimension_numbers"]
  n = shape_of(eqn.outvars[0])[spec.out_spec[2 + axis]]
  k = shape_of(eqn.invars[1])[spec.rhs_spec[2 + axis]]
  low, high = params["padding"][axis]
  hole = params["lhs_dilation"][axis]
  if hole == 1 and (padding or low <= 0 >= high):
    return n * k
  stride, step = params["window_strides"][axis], params["rhs_dilation"][axis]
  size = shape_of(eqn.invars[0])[spec.lhs_spec[2 + axis]]
  last = (size - 1) * hole
  # Of tap j, position i reads the place i * stride - start[j]; it is no hole
  # if hole divides that: at every `apart`-th i from `at` on, or at none.
  start = low - np.arange(k, dtype=np.int64) * step
  common = math.gcd(stride, hole)
  apart = hole // common
  at = start // common * pow(stride // common, -1, apart) % apart
  begin, end = np.zeros_like(start), np.full_like(start, n - 1)
  if not padding:  # places from 0 to `last`
    begin = np.maximum(begin, -(-start // stride))
    end = np.minimum(end, (start + last) // stride)
  found = (end - at) // apart - (begin - 1 - at) // apart
  return int(np.where(start % common == 0, found, 0).clip(0).sum())


def _padding(
  eqn: core.JaxprEqn, window: Sequence[int]
) -> str | list[list[int]]:
  params = eqn.params
  pads = [tuple(int(p) for p in pair) for pair in params["padding"]]
  if all(pair == (0, 0) for pair in pads):
    return "SAME" if all(n == 1 for n in window) else "VALID"
  spec = params["dimension_numbers"]
  lhs = shape_of(eqn.invars[0])
  wide = [
    (k - 1) * step + 1
    for k, step in zip(window, params["rhs_dilation"], strict=True)
  ]
  same = lax.padtype_to_pads(
    [lhs[d] for d in spec.lhs_spec[2:]],
    wide,
    params["window_strides"],
    "SAME",
  )
  plain = all(n == 1 for n in params["lhs_dilation"])
  if plain and pads == [tuple(int(p) for p in pair) for pair in same]:
    return "SAME"
  return [list(pair) for pair in pads]
