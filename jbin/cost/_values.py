"""What the walk knows of one variable of the program, and maps of its axes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

import jax.numpy as jnp

Dims = frozenset[int]
Shape = tuple[int, ...]
NONE: Dims = frozenset()


@dataclasses.dataclass(frozen=True)
class Value:
  """The abstract value of a variable: where it comes from, how wide it is."""

  bits: int | None = None
  # Width that a tag gave; None: by the dtype.
  origin: str | None = None
  # Path of the parameter that the value is made of; None for activations.
  data: bool = False
  # Whether the value depends on the inputs of the program.
  varies: Dims = NONE
  # Axes (longer than 1) along which the elements may differ.
  scales: frozenset[int] = NONE
  # The multiplications by a scale that the value went through since its tag.
  scale_dims: Dims = NONE
  # Axes along which one of those scales varies.
  copies: int = 1
  # How many slices of the parameter a scan goes through.


def long_dims(shape: Shape) -> Dims:
  """The axes longer than 1."""
  return frozenset(d for d, n in enumerate(shape) if n != 1)


def unknown(shape: Shape, *, data: bool) -> Value:
  """A value of which nothing is known but whether it depends on the inputs."""
  return Value(data=data, varies=long_dims(shape))


def dtype_bits(dtype: jnp.dtype) -> int:
  """Bits of one element: bfloat16 16, int4 4, bool 1."""
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


def mix(values: Sequence[Value], sizes: Sequence[int]) -> Value:
  """An untagged result of several operands; it may vary along no axis yet."""
  data = any(v.data for v in values)
  return Value(
    origin=None if data else main_origin(values, sizes),
    data=data,
    copies=max((v.copies for v in values), default=1),
  )


def join(values: Sequence[Value]) -> Value:
  """One of several values of one shape: a select, a cond, a loop's carry.

  The result is tagged only if every value is, with the widest tag. Scales are
  kept even without bits: a tag on the result may follow.
  """
  bits = [v.bits for v in values]
  mixed = mix(values, [1] * len(values))
  return dataclasses.replace(
    mixed,
    bits=None if None in bits else max(b for b in bits if b is not None),
    varies=union(v.varies for v in values),
    scales=frozenset().union(*(v.scales for v in values)),
    scale_dims=union(v.scale_dims for v in values),
  )


def union(dims: Iterable[Dims]) -> Dims:
  """All axes of several sets."""
  return frozenset().union(*dims)


def map_dims(value: Value, move: dict[int, Dims], shape: Shape) -> Value:
  """The value after its axes moved: axis d of it becomes the axes move[d]."""
  long = long_dims(shape)

  def moved(dims: Dims) -> Dims:
    return union(move.get(d, NONE) for d in dims) & long

  return dataclasses.replace(
    value, varies=moved(value.varies), scale_dims=moved(value.scale_dims)
  )


def shift_dims(value: Value, by: int, shape: Shape) -> Value:
  """The value with `by` leading axes added (or removed, if negative)."""
  move = {
    d: frozenset({d + by})
    for d in value.varies | value.scale_dims
    if d + by >= 0
  }
  return map_dims(value, move, shape)


def reshape_moves(before: Shape, after: Shape) -> dict[int, Dims]:
  """Where each axis goes in a row-major reshape.

  Axes are matched in the smallest groups of equal size; inside a group every
  axis goes to every axis, which errs towards "varies".
  """
  if 0 in before:
    return {d: long_dims(after) for d in range(len(before))}
  ins = sorted(long_dims(before))
  outs = sorted(long_dims(after))
  moves: dict[int, Dims] = {}
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
    moves.update({d: frozenset(target) for d in group})
  return moves
