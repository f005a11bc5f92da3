"""What the walk knows of one variable of the program, and maps of its axes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp

from jbin.cost import _blocks
from jbin.cost._blocks import NONE, Blocks

Shape = _blocks.Shape


@dataclasses.dataclass(frozen=True)
class Step:
  """One equation on the way of a value, for `Report.explain`."""

  primitive: str
  # "" where the way begins: at an input, a parameter or a constant.
  where: str
  # The name stack, or the path of the input.
  shape: Shape
  dtype: str
  bits: int | None = None
  # After the equation: by a tag, or None: by the dtype.
  before: Step | None = None
  # The way of the operand that the value is made of.
  note: str = ""
  # What it does to the bits.


@dataclasses.dataclass(frozen=True)
class Value:
  """The abstract value of a variable: where it comes from, how wide it is."""

  bits: int | None = None
  # Width that a tag gave; None: by the dtype.
  origin: str | None = None
  # Path of the parameter that the value is made of; None for activations.
  data: bool = False
  # Whether the value depends on the inputs of the program.
  changes: bool = False
  # Whether it differs from run to run though no input does: states, draws.
  varies: Blocks = NONE
  # Where the elements may differ.
  scales: frozenset[int] = frozenset()
  # The multiplications by a scale that the value went through since its tag.
  scale_blocks: Blocks = NONE
  # Where those scales differ.
  devices: frozenset[str] = frozenset()
  # The axes of a mesh along which devices have different values.
  scale_devices: frozenset[str] = frozenset()
  # The same of the scales.
  copies: int = 1
  # How many slices of the parameter a scan goes through.
  after: bool = False
  # Whether a gradient is in it.
  makers: frozenset[int] = dataclasses.field(
    default=frozenset(), compare=False, repr=False
  )
  # The products of gradients that it is made of, by their numbers.
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
  if dtype == jax.dtypes.float0:  # the gradient of integers: no elements
    return 0
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
    changes=any(v.changes for v in values),
    copies=max((v.copies for v in values), default=1),
    after=any(v.after for v in values),
    devices=frozenset().union(*(v.devices for v in values)),
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
    scale_devices=frozenset().union(*(v.scale_devices for v in values)),
    makers=frozenset().union(*(v.makers for v in values)),
  )


def move(
  value: Value, moves: Mapping[int, int], before: Shape, after: Shape
) -> Value:
  """The value after its axes moved: axis d goes to axis `moves[d]`."""
  return _both(value, lambda b: _blocks.moved(b, moves, before, after))


def reshape(value: Value, before: Shape, after: Shape) -> Value:
  """The value after a row-major reshape."""
  return _both(value, lambda b: _blocks.reshaped(b, before, after))


def shift(value: Value, by: int) -> Value:
  """The value with `by` leading axes added (or removed, if negative)."""
  return _both(value, lambda b: _blocks.shifted(b, by))


def _both(value: Value, change: Callable[[Blocks], Blocks]) -> Value:
  return dataclasses.replace(
    value,
    varies=change(value.varies),
    scale_blocks=change(value.scale_blocks),
  )
