"""What the walk knows of one variable of the program, and maps of its axes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jbin.cost import _blocks
from jbin.cost._blocks import NONE, Blocks

Shape = _blocks.Shape


@dataclasses.dataclass(frozen=True)
class Step:
  """One equation on the way of a value, for `Report.explain`."""

  primitive: str
  where: str
  # The name stack, or the path of an input.
  shape: Shape
  dtype: str
  bits: int | None
  # After the equation: by a tag, or None: by the dtype.
  before: Step | None
  # The way of the operand that the value is made of.


@dataclasses.dataclass(frozen=True)
class Value:
  """The abstract value of a variable: where it comes from, how wide it is."""

  bits: int | None = None
  # Width that a tag gave; None: by the dtype.
  origin: str | None = None
  # Path of the parameter that the value is made of; None for activations.
  data: bool = False
  # Whether the value depends on the inputs of the program.
  varies: Blocks = NONE
  # Where the elements may differ.
  scales: frozenset[int] = frozenset()
  # The multiplications by a scale that the value went through since its tag.
  scale_blocks: Blocks = NONE
  # Where those scales differ.
  copies: int = 1
  # How many slices of the parameter a scan goes through.
  after: bool = False
  # Whether a gradient is in it.
  step: Step | None = dataclasses.field(default=None, compare=False, repr=False)
  # The last equation of its way.


def unknown(shape: Shape, *, data: bool) -> Value:
  """A value of which nothing is known but whether it depends on the inputs."""
  return Value(data=data, varies=_blocks.full(shape))


def dtype_bits(dtype: jnp.dtype) -> int:
  """Bits of one element: bfloat16 16, int4 4, bool 1."""
  if jnp.issubdtype(dtype, jax.dtypes.extended):  # keys of random numbers
    return dtype.itemsize * 8
  if dtype == jnp.bool_:
    return 1
  if jnp.issubdtype(dtype, jnp.integer):
    return jnp.iinfo(dtype).bits
  if jnp.issubdtype(dtype, jnp.complexfloating):
    return 2 * jnp.finfo(dtype).bits
  return jnp.finfo(dtype).bits


def main_origin(values: Sequence[Value], sizes: Sequence[int]) -> str | None:
  """The parameter that a mix of values comes from: the largest operand's."""
  found = [(n, v.origin) for v, n in zip(values, sizes, strict=True)]
  known = [(n, origin) for n, origin in found if origin is not None]
  return max(known, key=lambda pair: pair[0])[1] if known else None


def main_operand(values: Sequence[Value], sizes: Sequence[int]) -> int | None:
  """Which operand a mix is made of: the tagged, else the largest by origin."""
  found = [i for i, v in enumerate(values) if v.bits is not None]
  found = found or [i for i, v in enumerate(values) if v.origin is not None]
  found = found or [i for i, v in enumerate(values) if v.data]
  return max(found or range(len(values)), key=lambda i: sizes[i], default=None)


def mix(values: Sequence[Value], sizes: Sequence[int]) -> Value:
  """An untagged result of several operands; it may vary along no axis yet."""
  data = any(v.data for v in values)
  return Value(
    origin=None if data else main_origin(values, sizes),
    data=data,
    copies=max((v.copies for v in values), default=1),
    after=any(v.after for v in values),
  )


def join(values: Sequence[Value], shape: Shape) -> Value:
  """One of several values of one shape: a select, a cond, a loop's carry.

  The result is tagged only if every value is, with the widest tag. Scales are
  kept even without bits: a tag on the result may follow.
  """
  bits = [v.bits for v in values]
  mixed = mix(values, [1] * len(values))
  return dataclasses.replace(
    mixed,
    bits=None if None in bits else max(b for b in bits if b is not None),
    varies=_blocks.merge((v.varies for v in values), shape),
    scales=frozenset().union(*(v.scales for v in values)),
    scale_blocks=_blocks.merge((v.scale_blocks for v in values), shape),
  )


def move(
  value: Value, moves: _blocks.Moves, before: Shape, after: Shape
) -> Value:
  """The value after its axes moved: axis d goes to the axes `moves[d]`."""
  return dataclasses.replace(
    value,
    varies=_blocks.moved(value.varies, moves, before, after),
    scale_blocks=_blocks.moved(value.scale_blocks, moves, before, after),
  )


def shift(value: Value, by: int) -> Value:
  """The value with `by` leading axes added (or removed, if negative)."""
  return dataclasses.replace(
    value,
    varies=_blocks.shifted(value.varies, by),
    scale_blocks=_blocks.shifted(value.scale_blocks, by),
  )


def reshape_moves(before: Shape, after: Shape) -> dict[int, tuple[int, ...]]:
  """Where each axis goes in a row-major reshape.

  Axes are matched in the smallest groups of equal size; inside a group every
  axis goes to every axis, which errs towards "varies".
  """
  if 0 in before:
    return {d: tuple(range(len(after))) for d in range(len(before))}
  ins = [d for d, n in enumerate(before) if n > 1]
  outs = [d for d, n in enumerate(after) if n > 1]
  moves: dict[int, tuple[int, ...]] = {}
  while ins:
    group, target = [ins.pop(0)], [outs.pop(0)]
    while True:
      left = math.prod(before[d] for d in group)
      right = math.prod(after[d] for d in target)
      if left == right:
        break
      if left < right:
        group.append(ins.pop(0))
      else:
        target.append(outs.pop(0))
    moves.update({d: tuple(target) for d in group})
  return moves
