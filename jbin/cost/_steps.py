"""How a value came about, equation by equation, for `Report.explain`."""

from __future__ import annotations

from collections.abc import Sequence

from jax.extend import core

from jbin import bits as tags
from jbin.cost import _arrays, _blocks, _kernels, _primitives, _products
from jbin.cost._values import Shape, Step, Value

SUMS = frozenset({"add", "add_any", "sub", "reduce_sum", "cumsum"})
JOINS = frozenset({"select_n", "concatenate", "stack", "dynamic_update_slice"})
NO_TAG = "an operand without a tag comes in, and the tag ends"


def made(
  eqn: core.JaxprEqn,
  values: Sequence[Value],
  results: Sequence[Value],
  where: str,
) -> list[Step]:
  """The step of each result: after that of the operand it is made of."""
  name = eqn.primitive.name
  main = main_operand(values, _arrays.sizes(eqn))
  before = None if main is None else values[main]
  ends = name in _products.PRODUCTS or _kernels.find(eqn) is not None
  label = f"name[{eqn.params['name']}]" if name == "name" else name
  return [
    Step(
      primitive=label,
      where=where,
      shape=_arrays.shape_of(var),
      dtype=_arrays.dtype_name(_arrays.dtype_of(var)),
      bits=value.bits,
      before=None if ends or before is None else before.step,
      note=_by(values) if ends else note(eqn, values, main, value),
    )
    for var, value in zip(eqn.outvars, results, strict=True)
  ]


def _by(values: Sequence[Value]) -> str:
  """The parameter of a product."""
  found = [v.origin for v in values if v.origin is not None]
  return f"by {found[-1]}" if found else ""


def main_operand(values: Sequence[Value], sizes: Sequence[int]) -> int | None:
  """Which operand a mix is made of: tagged, or else data, or a parameter."""
  found = [i for i, v in enumerate(values) if v.bits is not None]
  found = found or [i for i, v in enumerate(values) if v.data]
  found = found or [i for i, v in enumerate(values) if v.origin is not None]
  return max(found or range(len(values)), key=lambda i: sizes[i], default=None)


def part(
  value: Value, primitive: str, shape: Shape, n: int, what: str
) -> Step | None:
  """The step of one of `n` slices of a value."""
  old = value.step
  if old is None or n == 1:
    return old
  said = f"one {what} of {n}"
  return Step(primitive, "", shape, old.dtype, value.bits, old, said)


def again(first: Value, value: Value, where: str) -> Step | None:
  """The step of a loop's carry, if later trips make its bits others."""
  old = first.step
  if old is None or first.bits == value.bits:
    return old
  note = _joined(first.bits, value.bits, "a later trip")
  return Step("carry", where, old.shape, old.dtype, value.bits, old, note)


def one_of(
  eqn: core.JaxprEqn, i: int, each: Sequence[Value], value: Value, where: str
) -> Step:
  """The step of a result of a `cond`: any branch may have made it."""
  main = max(each, key=lambda v: v.bits or 0)
  var = eqn.outvars[i]
  return Step(
    primitive="cond",
    where=where,
    shape=_arrays.shape_of(var),
    dtype=_arrays.dtype_name(_arrays.dtype_of(var)),
    bits=value.bits,
    before=main.step,
    note=_joined(main.bits, value.bits, "another branch"),
  )


def note(
  eqn: core.JaxprEqn,
  values: Sequence[Value],
  main: int | None,
  result: Value,
) -> str:
  """What an equation does to the bits; "" if they go through."""
  name = eqn.primitive.name
  if name == "name":
    tag = tags.parse(eqn.params["name"])
    return "the tag" if isinstance(tag, tags.BitsTag) else ""
  before = None if main is None else values[main].bits
  if main is None or before is None:
    return ""
  if result.bits is None:
    return _lost(eqn, values, main)
  if result.bits != before:
    if name in JOINS:
      return "the widest of what comes together"
    return "integers: as wide as every result needs"
  if result.scales - values[main].scales:
    return _scaled(result, _arrays.shape_of(eqn.outvars[0]))
  return ""


def _lost(eqn: core.JaxprEqn, values: Sequence[Value], main: int) -> str:
  """Why a tag ends here."""
  name = eqn.primitive.name
  others = [v for i, v in enumerate(values) if i != main]
  kind = "integers with a scale" if values[main].scales else "floats"
  if name in SUMS:
    kind = "a float" if others and others[0].bits is None else kind
    return f"{name} of {kind}: a sum ends the tag"
  if name in JOINS:
    return NO_TAG
  if name == "div" and main == 1:
    return "a quotient by codes has other levels: the tag ends"
  if name in ("mul", "div"):
    if others and others[0].bits is not None:
      return f"{name} of two tagged floats has other levels: the tag ends"
    if _arrays.in_shapes(eqn)[main] != _arrays.out_shapes(eqn)[0]:
      return "the codes are spread over the other operand: the tag ends"
    return "the other operand is an activation, no scale: the tag ends"
  if name in _primitives.ELEMENTWISE or name in _primitives.REDUCTIONS:
    return f"{name} gives other values: the tag ends"
  return f"no rule carries bits through {name}: the tag ends"


def _scaled(result: Value, shape: Shape) -> str:
  said = runs(result.scale_blocks, shape)
  return f"a scale; with those before, {said}"


def runs(blocks: _blocks.Blocks, shape: Shape) -> str:
  """Along which axes something varies, in words."""
  if not blocks:
    return "one for all elements"
  return ", ".join(
    f"one for each element of axis {axis}"
    if n == shape[axis]
    else f"{n} runs along axis {axis}"
    for axis, n in blocks
  )


def _joined(before: int | None, after: int | None, who: str) -> str:
  if before == after:
    return ""
  if after is None:
    return f"{who} leaves no tag: the tag ends"
  return f"{who} leaves {after} bits: the widest counts"
