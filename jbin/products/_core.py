"""The product of two tensors, either of which may be codes times scale.

Forward: codes are multiplied in the narrowest type that is exact and fast,
and the scales come on after the contraction. Backward: the gradients of the
*values*, computed from what is small (codes, as bits where there are two), so
that they equal those of the float product of the values up to rounding.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax import lax

from jbin import bits as tags, errors, residuals, shards
from jbin.products import _form, _geometry
from jbin.quantizers import Quantized

GradPrecision = Literal["float32", "bfloat16"]
Operand = jax.Array | Quantized
# Codes or their bits; the scale, or its factors where it is not factored out;
# the offset.
Parts = tuple[jax.Array, Any, jax.Array | None]


@dataclasses.dataclass(frozen=True)
class _Side:
  """What is known of an operand that has codes.

  Attributes:
    factored: whether the product works on the codes, its scale coming on
      after the sum; else it takes the value, and makes it of the codes again.
  """

  bits: int
  levels: tuple[int, int]
  factored: bool
  packing: shards.Packing | None


@dataclasses.dataclass(frozen=True)
class _Plan:
  """What is known at trace time; static in the custom_vjp."""

  geometry: _geometry.Geometry
  form: _form.Form
  grad_precision: GradPrecision
  sides: tuple[_Side | None, _Side | None]
  dtype: Any
  keep: residuals.Keep


def product(
  x: Operand,
  w: Operand,
  geometry: _geometry.Geometry,
  *,
  form: _form.Form = "auto",
  grad_precision: GradPrecision = "float32",
) -> jax.Array:
  """The product of `x` and `w`, in the dtype of their values.

  Raises:
    errors.UserError: if the form or precision is unknown, or codes are too
      wide for int8.
  """
  for option, given, known in (
    ("form", form, get_args(_form.Form)),
    ("grad_precision", grad_precision, get_args(GradPrecision)),
  ):
    if given not in known:
      raise errors.UnknownName(option, given, known)
  sides = _side(x, geometry.lhs_out), _side(w, geometry.rhs_out)
  values = tuple(v.value if isinstance(v, Quantized) else v for v in (x, w))
  if sides == (None, None):
    return geometry.apply(values[0], values[1], None)
  pairs = tuple(
    None if side is None else _parts(operand, side)  # pyright: ignore[reportArgumentType]
    for side, operand in zip(sides, (x, w), strict=True)
  )
  both = all(side is not None and side.factored for side in sides)
  if not both:  # a float operand: codes are widened to its dtype, exactly
    form = "float32"
  elif form == "auto":
    form = _choose(x, w, geometry)  # pyright: ignore[reportArgumentType]
  elif form == "int8":
    _check_int8(x, w)
  plan = _Plan(
    geometry=geometry,
    form=form,
    grad_precision=grad_precision,
    sides=sides,
    dtype=jnp.result_type(*values),
    keep=residuals.kept(),
  )
  return _product(plan, *shards.varying_alike((*values, *pairs)))


def _check_int8(*operands: Operand) -> None:
  for side in operands:
    codes = side.codes if isinstance(side, Quantized) else None
    if codes is not None and codes.dtype != jnp.int8:
      raise errors.UserError(
        f"form='int8' cannot hold codes from {side.levels[0]} to"  # pyright: ignore[reportAttributeAccessIssue]
        f" {side.levels[1]}; take bfloat16, float32 or auto"  # pyright: ignore[reportAttributeAccessIssue]
      )


def _side(operand: Operand, out: tuple[int | None, ...]) -> _Side | None:
  """What a product makes of an operand; None if it takes the value as it is.

  A scale that varies along a contracted axis cannot be taken out of the sum,
  nor can an offset: such an operand enters as its float value, which is made
  of one-bit codes again for the gradient.
  """
  if not isinstance(operand, Quantized) or operand.codes is None:
    return None
  scale = operand.scale
  factored = operand.offset is None and (
    scale is None
    or all(
      to is not None or scale.shape[axis] == 1 for axis, to in enumerate(out)
    )
  )
  if not factored:
    beside = jax.tree.leaves((_factors(operand), operand.offset))
    small = 8 * sum(part.size for part in beside) <= operand.codes.size
    if operand.bits != 1 or operand.dtype == jnp.float64 or not small:
      return None
  return _Side(operand.bits, operand.levels, factored, operand.packing)


def _parts(operand: Quantized, side: _Side) -> Parts:
  """Codes, or their bits where these are gathered, scale and offset."""
  codes: jax.Array = operand.codes  # pyright: ignore[reportAssignmentType]
  if side.packing is not None:
    codes = side.packing.pack(codes == side.levels[0])
  scale = operand.scale if side.factored else _factors(operand)
  return codes, scale, operand.offset


def _factors(operand: Quantized) -> tuple[jax.Array, ...]:
  """Arrays whose product is the scale; none if it is 1."""
  if operand.factors is not None:
    return operand.factors
  return () if operand.scale is None else (operand.scale,)


def _choose(
  x: Quantized, w: Quantized, geometry: _geometry.Geometry
) -> _form.Form:
  groups = max(geometry.groups, 1)
  if geometry.kind == "conv":  # channels last, so a row is a position
    contracted = x.shape[-1] // groups
    rows, columns = math.prod(x.shape[:-1]), w.shape[-1]
  else:
    ends = zip(x.shape, geometry.lhs_out, strict=True)
    contracted = math.prod(size for size, to in ends if to is None)
    rows = math.prod(x.shape) // max(contracted * groups, 1)
    columns = math.prod(w.shape) // max(contracted * groups, 1)
  return _form.choose(
    geometry.kind,
    rows=rows,
    contracted=contracted,
    columns=columns,
    groups=groups,
    spread=geometry.spread,
    rowwise=geometry.rowwise,
    codes=(x.codes.dtype, w.codes.dtype),  # pyright: ignore[reportOptionalMemberAccess]
    largest=math.prod(max(map(abs, side.levels)) for side in (x, w)),
  )


def _signs(side: _Side, low: jax.Array, dtype: Any) -> jax.Array:
  """One-bit codes, from where they are the lower one."""
  first, second = (jnp.asarray(level, dtype) for level in side.levels)
  return tags.tag(jnp.where(low, first, second), side.bits)


def _value(
  side: _Side,
  codes: jax.Array,
  factors: tuple[jax.Array, ...],
  offset: jax.Array | None,
  dtype: Any,
) -> jax.Array:
  """What the quantizer's value is, of one-bit codes in float32."""
  spread = side.packing.spread if side.packing else lambda part: part
  value = codes
  if factors:
    value = codes * functools.reduce(jnp.multiply, map(spread, factors))
  if offset is not None:
    value = value + spread(offset)
    value = tags.tag(value, side.bits)  # a sum ends the codes' tag
  return spread(value.astype(dtype))


def _entering(
  side: _Side | None, value: jax.Array, parts: Parts | None, dtype: Any
) -> jax.Array:
  """An operand as the forward product takes it."""
  if side is None or parts is None:
    return value.astype(dtype)
  codes, scale, offset = parts
  if side.packing is not None:
    low = side.packing.open(codes)
    if side.factored:
      return _signs(side, low, dtype)
    codes = _signs(side, low, jnp.float32)
    return _value(side, codes, scale, offset, value.dtype).astype(dtype)
  return (codes if side.factored else value).astype(dtype)


def _compute(
  plan: _Plan,
  xv: jax.Array,
  wv: jax.Array,
  xq: Parts | None,
  wq: Parts | None,
) -> jax.Array:
  geometry = plan.geometry
  operand, total = plan.dtype, None
  if all(side is not None and side.factored for side in plan.sides):
    operand, total = _form.dtypes(plan.form)
  out = geometry.apply(
    _entering(plan.sides[0], xv, xq, operand),
    _entering(plan.sides[1], wv, wq, operand),
    total,
  )
  scales = [
    _geometry.spread(parts[1], to, geometry.out_ndim)
    for side, parts, to in zip(
      plan.sides, (xq, wq), (geometry.lhs_out, geometry.rhs_out), strict=True
    )
    if side is not None and side.factored and parts is not None
    if parts[1] is not None
  ]
  if scales:
    out = out.astype(jnp.float32) * functools.reduce(jnp.multiply, scales)
  return out.astype(plan.dtype)


_product = jax.custom_vjp(_compute, nondiff_argnums=(0,))


def _keep(
  plan: _Plan, index: int, value: jax.Array, parts: Parts | None
) -> Any:
  """What the backward needs of an operand: bits, codes, or the float."""
  side = plan.sides[index]
  if side is None or parts is None:
    return value
  codes, scale, offset = parts
  if plan.keep == "floats":
    entered = _entering(side, value, parts, plan.dtype)
    return entered, scale if side.factored else None, None
  if side.bits == 1 and side.packing is None:
    codes = residuals.pack(codes == side.levels[0])
  return codes, scale, offset


def _forward(
  plan: _Plan,
  xv: jax.Array,
  wv: jax.Array,
  xq: Parts | None,
  wq: Parts | None,
) -> tuple[jax.Array, Any]:
  kept = (
    _keep(plan, 0, xv, xq),
    _keep(plan, 1, wv, wq),
    # Shapes and dtypes only: XLA drops what nothing reads.
    jnp.zeros((0, *xv.shape), xv.dtype),
    jnp.zeros((0, *wv.shape), wv.dtype),
  )
  # Not `_product`: a policy of `jax.checkpoint` looks into no `custom_vjp`, and
  # could not save what the product gives.
  return _compute(plan, xv, wv, xq, wq), kept


def _restore(
  plan: _Plan, kept: Any, index: int, like: jax.ShapeDtypeStruct, dtype: Any
) -> tuple[jax.Array, jax.Array | None]:
  """An operand's codes (or value) in `dtype`, and the scale that is left."""
  side = plan.sides[index]
  if side is None:
    return kept.astype(dtype), None
  codes, scale, offset = kept
  if plan.keep == "bits" and side.bits == 1:
    if side.packing is not None:
      low = side.packing.open(codes)
    else:
      low = residuals.unpack(codes, like.shape[-1])
    if not side.factored:
      codes = _signs(side, low, jnp.float32)
      return _value(side, codes, scale, offset, like.dtype).astype(dtype), None
    return _signs(side, low, dtype), scale
  return tags.tag(codes.astype(dtype), side.bits), scale


def _tied(
  plan: _Plan, kept: list[Any], g: jax.Array
) -> tuple[list[Any], jax.Array]:
  """Bits that are there when the cotangent is: XLA would unpack them early."""
  packed = [
    index
    for index, side in enumerate(plan.sides)
    if side is not None and side.bits == 1 and plan.keep == "bits"
  ]
  if not packed:
    return kept, g
  tied, g = lax.optimization_barrier(([kept[i] for i in packed], g))
  kept = list(kept)
  for index, part in zip(packed, tied, strict=True):
    kept[index] = part
  return kept, g


def _backward(
  plan: _Plan, kept: Any, g: jax.Array
) -> tuple[jax.Array, jax.Array, None, None]:
  kept_x, kept_w, like_x, like_w = kept
  like_x, like_w = (
    jax.ShapeDtypeStruct(like.shape[1:], like.dtype)
    for like in (like_x, like_w)
  )
  kept, g = _tied(plan, [kept_x, kept_w], g)
  geometry = plan.geometry
  dtype = jnp.dtype(plan.grad_precision)
  if plan.dtype == jnp.bfloat16:
    dtype = jnp.dtype(jnp.bfloat16)

  def transposed(index: int) -> jax.Array:
    """The cotangent of one operand's value, from the other's codes."""
    other = 1 - index
    codes, scale = _restore(
      plan, kept[other], other, (like_x, like_w)[other], dtype
    )
    upstream = g
    if scale is not None:
      to = (geometry.lhs_out, geometry.rhs_out)[other]
      upstream = g * _geometry.spread(scale, to, geometry.out_ndim)
    like = (like_x, like_w)[index]
    # Both operands in one narrow dtype: a float32 one would widen the other.
    upstream = upstream.astype(dtype)
    if index == 1 and geometry.pull is not None:
      coded = plan.sides[other] is not None
      return geometry.pull(codes, upstream, coded).astype(like.dtype)

    def linear(operand: jax.Array) -> jax.Array:
      pair = (operand, codes) if index == 0 else (codes, operand)
      return geometry.apply(*pair, None)

    # Only its type matters: XLA never sees the zeros.
    example, _ = shards.varying_alike((jnp.zeros(like.shape, dtype), g))
    pull = jax.linear_transpose(linear, example)
    (cotangent,) = pull(upstream)
    return cotangent.astype(like.dtype)

  return transposed(0), transposed(1), None, None


_product.defvjp(_forward, _backward)
