"""How bits, origin and scales flow through the primitives of a program."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jax.extend import core

from jbin import bits as tags
from jbin.cost import _blocks, _moves, _primitives
from jbin.cost._arrays import dtype_of, in_shapes, out_shapes, own_axes, sizes
from jbin.cost._blocks import NONE, axes_of, full
from jbin.cost._values import Shape, Value, dtype_bits, join, mix, unknown

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
  made = _made(eqn, values, scale)
  if eqn.primitive.name in _primitives.STEADY:
    return made
  return [dataclasses.replace(v, changes=True) for v in made]


def _made(eqn: core.JaxprEqn, values: list[Value], scale: int) -> list[Value]:
  name = eqn.primitive.name
  if name in _RULES:
    return _RULES[name](eqn, values, scale)
  if name in _moves.RULES:
    return _moves.RULES[name](eqn, values)
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
  n = sizes(eqn)[0] // max(1, math.prod(out_shapes(eqn)[0]))
  more = max(0, n - 1).bit_length()
  found = _reduce(eqn, values)[0]
  return [_integer(eqn, values, found, (values[0].bits or 0) + more)]


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
  if _by_each(by, shape) and len(full(shape)) > 1:
    return [plain]
  return [
    dataclasses.replace(
      plain,
      bits=codes.bits,
      scales=codes.scales | by.scales | {scale},
      scale_blocks=_blocks.merge((codes.scale_blocks, by.varies), shape),
      scale_devices=codes.scale_devices | by.scale_devices | by.devices,
    )
  ]


def _by_each(by: Value, shape: Shape) -> bool:
  """Whether each code has a factor of its own that depends on the data."""
  return by.data and axes_of(by.varies) == axes_of(full(shape))


def note(eqn: core.JaxprEqn, values: list[Value], where: str) -> str:
  """What to say of an equation whose reading is a guess; mostly ""."""
  shape = out_shapes(eqn)[0] if eqn.outvars else ()
  if eqn.primitive.name not in ("mul", "div") or len(full(shape)) != 1:
    return ""
  codes = [v for v in values if v.bits is not None]
  others = [v for v in values if v.bits is None]
  if not (codes and others and _by_each(others[0], shape)):
    return ""
  return (
    f"{eqn.primitive.name} at {where or 'the top'}: what depends on the data is"
    f" taken for a scale of {codes[0].bits}-bit codes; at a batch of one a"
    " scale of each channel and a gate look the same, and a gate ends the tag:"
    " a batch of two tells"
  )


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
      changes=chosen.changes or which.changes,
      # where(w > 0, 1, -1) is made of w.
      origin=None if data else chosen.origin or which.origin,
      copies=max(chosen.copies, which.copies),
      after=chosen.after or which.after,
      varies=_blocks.merge((chosen.varies, which.varies), shape),
      scale_blocks=_blocks.merge(scales, shape),
    )
  ]


def _reduce(eqn: core.JaxprEqn, values: list[Value]) -> list[Value]:
  varies = _blocks.merge((v.varies for v in values), in_shapes(eqn)[0])
  value = dataclasses.replace(mix(values, sizes(eqn)), varies=varies)
  return _moves.without(eqn, value, eqn.params["axes"])


_RULES: dict[str, Rule] = {
  "name": _name,
  "add": _sum,
  "add_any": _sum,
  "sub": _sum,
  "reduce_sum": _reduce_sum,
  "mul": _scaled,
  "div": _scaled,
  "select_n": _select,
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
  if name in _primitives.COLLECTIVES:
    return sum(sizes(eqn)) if own_axes(eqn) else 0
  if name in _primitives.WINDOWS:
    # Of the gradient of a pool, the pooled side is an operand.
    scatters = name.startswith("select_and_scatter")
    pooled = in_shapes(eqn)[0] if scatters else out_shapes(eqn)[0]
    return math.prod((*pooled, *eqn.params["window_dimensions"]))
  if name in _primitives.SCATTERS:
    return sizes(eqn)[2]
  return 0
