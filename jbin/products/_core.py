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
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax import lax

from jbin import bits as tags, errors, residuals, shards
from jbin.products import _form
from jbin.quantizers import Quantized

GradPrecision = Literal["float32", "bfloat16"]
Operand = jax.Array | Quantized


@dataclasses.dataclass(frozen=True)
class Geometry:
  """Where the axes of both operands go: what scales and forms need to know.

  Attributes:
    apply: `(lhs, rhs, sum dtype or None) -> out`, linear in each operand.
    lhs_out: for each axis of the left operand, its axis in the result, or
      None if it is contracted (or a window slides over it).
    rhs_out: the same for the right operand.
    out_ndim: the result's rank.
    kind: "dot" or "conv".
    groups: feature groups, or the number of batched products.
    spread: whether a convolution's input has zeros between its elements.
    rowwise: whether it is a matrix product that sums over the left operand's
      last axes.
    pull: `(left operand, cotangent of the result, whether that operand is
      codes) ->` the right operand's cotangent. None: the transpose of `apply`.
  """

  apply: Callable[[jax.Array, jax.Array, Any], jax.Array]
  lhs_out: tuple[int | None, ...]
  rhs_out: tuple[int | None, ...]
  out_ndim: int
  kind: Literal["dot", "conv"]
  groups: int = 1
  spread: bool = False
  rowwise: bool = False
  pull: Callable[[jax.Array, jax.Array, bool], jax.Array] | None = None


@dataclasses.dataclass(frozen=True)
class _Plan:
  """What is known at trace time; static in the custom_vjp."""

  geometry: Geometry
  form: _form.Form
  grad_precision: GradPrecision
  levels: tuple[tuple[int, int] | None, tuple[int, int] | None]
  bits: tuple[int | None, int | None]
  dtype: Any

  @property
  def one_bit(self) -> tuple[bool, bool]:
    """Whether each operand's codes have one bit."""
    return self.bits[0] == 1, self.bits[1] == 1


def product(
  x: Operand,
  w: Operand,
  geometry: Geometry,
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
  xs = _with_codes(x, geometry.lhs_out)
  ws = _with_codes(w, geometry.rhs_out)
  values = tuple(v.value if isinstance(v, Quantized) else v for v in (x, w))
  if xs is None and ws is None:
    return geometry.apply(values[0], values[1], None)
  if form == "auto":
    form = _choose(values, xs, ws, geometry)
  if form == "int8" and xs is not None and ws is not None:
    for side in (xs, ws):
      if side.codes is not None and side.codes.dtype != jnp.int8:
        raise errors.UserError(
          f"form='int8' cannot hold codes from {side.levels[0]} to"
          f" {side.levels[1]}; take bfloat16, float32 or auto"
        )
  plan = _Plan(
    geometry=geometry,
    form=form,
    grad_precision=grad_precision,
    levels=tuple(q.levels if q else None for q in (xs, ws)),  # pyright: ignore[reportArgumentType]
    bits=tuple(q.bits if q else None for q in (xs, ws)),  # pyright: ignore[reportArgumentType]
    dtype=jnp.result_type(*values),
  )
  pairs = tuple((q.codes, q.scale) if q else None for q in (xs, ws))
  return _product(plan, *shards.varying_alike((*values, *pairs)))


def _with_codes(
  operand: Operand, out: tuple[int | None, ...]
) -> Quantized | None:
  """The operand if a product can work on its codes, else None.

  A scale that varies along a contracted axis cannot be taken out of the sum,
  nor can an offset: such an operand enters as its float value.
  """
  if not isinstance(operand, Quantized) or operand.codes is None:
    return None
  if operand.offset is not None:
    return None
  if operand.scale is not None:
    for axis, to in enumerate(out):
      if to is None and operand.scale.shape[axis] != 1:
        return None
  return operand


def _choose(
  values: tuple[jax.Array, ...],
  xs: Quantized | None,
  ws: Quantized | None,
  geometry: Geometry,
) -> _form.Form:
  if xs is None or ws is None:
    # A float operand: codes are widened to its dtype, which is exact.
    return "float32"
  lhs, rhs = (value.shape for value in values)
  groups = max(geometry.groups, 1)
  if geometry.kind == "conv":  # channels last, so a row is a position
    contracted = lhs[-1] // groups
    rows, columns = math.prod(lhs[:-1]), rhs[-1]
  else:
    ends = zip(lhs, geometry.lhs_out, strict=True)
    contracted = math.prod(size for size, to in ends if to is None)
    rows = math.prod(lhs) // max(contracted * groups, 1)
    columns = math.prod(rhs) // max(contracted * groups, 1)
  return _form.choose(
    geometry.kind,
    rows=rows,
    contracted=contracted,
    columns=columns,
    groups=groups,
    spread=geometry.spread,
    rowwise=geometry.rowwise,
    codes=(xs.codes.dtype, ws.codes.dtype),  # pyright: ignore[reportOptionalMemberAccess]
    largest=math.prod(max(map(abs, side.levels)) for side in (xs, ws)),
  )


def _spread(
  scale: jax.Array, out: tuple[int | None, ...], ndim: int
) -> jax.Array:
  """A scale, its axes put where the result has them."""
  shape = [1] * ndim
  order = [axis for axis in range(scale.ndim) if out[axis] is not None]
  order.sort(key=lambda axis: out[axis] or 0)
  for axis in order:
    shape[out[axis] or 0] = scale.shape[axis]
  kept = lax.transpose(
    scale,
    [*order, *(a for a in range(scale.ndim) if out[a] is None)],
  )
  return jnp.reshape(kept, shape)


Pair = tuple[jax.Array, jax.Array | None] | None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(
  plan: _Plan, xv: jax.Array, wv: jax.Array, xq: Pair, wq: Pair
) -> jax.Array:
  geometry = plan.geometry
  if xq is not None and wq is not None:
    operand, total = _form.dtypes(plan.form)
  else:
    operand, total = plan.dtype, None
  left = (xq[0] if xq else xv).astype(operand)
  right = (wq[0] if wq else wv).astype(operand)
  out = geometry.apply(left, right, total)
  scales = [
    _spread(pair[1], to, geometry.out_ndim)
    for pair, to in ((xq, geometry.lhs_out), (wq, geometry.rhs_out))
    if pair is not None and pair[1] is not None
  ]
  if scales:
    out = out.astype(jnp.float32) * functools.reduce(jnp.multiply, scales)
  return out.astype(plan.dtype)


def _keep(
  value: jax.Array, pair: Pair, one_bit: bool, levels: tuple[int, int] | None
) -> Any:
  """What the backward needs of an operand: bits, codes, or the float."""
  if pair is None or levels is None:
    return value
  codes, scale = pair
  return (residuals.pack(codes == levels[0]) if one_bit else codes), scale


def _forward(
  plan: _Plan, xv: jax.Array, wv: jax.Array, xq: Pair, wq: Pair
) -> tuple[jax.Array, Any]:
  kept = (
    _keep(xv, xq, plan.one_bit[0], plan.levels[0]),
    _keep(wv, wq, plan.one_bit[1], plan.levels[1]),
    # Shapes and dtypes only: XLA drops what nothing reads.
    jnp.zeros((0, *xv.shape), xv.dtype),
    jnp.zeros((0, *wv.shape), wv.dtype),
  )
  return _product(plan, xv, wv, xq, wq), kept


def _restore(
  plan: _Plan, kept: Any, side: int, like: jax.ShapeDtypeStruct, dtype: Any
) -> tuple[jax.Array, jax.Array | None]:
  """An operand's codes (or value) in `dtype`, and its scale."""
  levels = plan.levels[side]
  if levels is None:
    return kept.astype(dtype), None
  codes, scale = kept
  if plan.one_bit[side]:
    low = residuals.unpack(codes, like.shape[-1])
    first, second = (jnp.asarray(level, dtype) for level in levels)
    codes = jnp.where(low, first, second)
  bits = plan.bits[side]
  codes = codes.astype(dtype)
  return codes if bits is None else tags.tag(codes, bits), scale


def _backward(
  plan: _Plan, kept: Any, g: jax.Array
) -> tuple[jax.Array, jax.Array, None, None]:
  kept_x, kept_w, like_x, like_w = kept
  like_x, like_w = (
    jax.ShapeDtypeStruct(like.shape[1:], like.dtype)
    for like in (like_x, like_w)
  )
  geometry = plan.geometry
  dtype = jnp.dtype(plan.grad_precision)
  if plan.dtype == jnp.bfloat16:
    dtype = jnp.dtype(jnp.bfloat16)

  def transposed(side: int) -> jax.Array:
    """The cotangent of one operand's value, from the other's codes."""
    other = 1 - side
    codes, scale = _restore(
      plan, (kept_x, kept_w)[other], other, (like_x, like_w)[other], dtype
    )
    upstream = g
    if scale is not None:
      to = (geometry.lhs_out, geometry.rhs_out)[other]
      upstream = g * _spread(scale, to, geometry.out_ndim)
    like = (like_x, like_w)[side]
    # Both operands in one narrow dtype: a float32 one would widen the other.
    upstream = upstream.astype(dtype)
    if side == 1 and geometry.pull is not None:
      coded = plan.levels[other] is not None
      return geometry.pull(codes, upstream, coded).astype(like.dtype)

    def linear(operand: jax.Array) -> jax.Array:
      pair = (operand, codes) if side == 0 else (codes, operand)
      return geometry.apply(*pair, None)

    # Only its type matters: XLA never sees the zeros.
    example, _ = shards.varying_alike((jnp.zeros(like.shape, dtype), g))
    pull = jax.linear_transpose(linear, example)
    (cotangent,) = pull(upstream)
    return cotangent.astype(like.dtype)

  return transposed(0), transposed(1), None, None


_product.defvjp(_forward, _backward)
