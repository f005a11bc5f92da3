"""Matrix products and einsums of low-bit tensors."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jbin import errors
from jbin.products import _core, _form, _geometry

DotDimensions = tuple[
  tuple[Sequence[int], Sequence[int]], tuple[Sequence[int], Sequence[int]]
]


def _where(
  shape: tuple[int, ...],
  contract: Sequence[int],
  batch: Sequence[int],
  offset: int,
) -> tuple[int | None, ...]:
  """For each axis of a dot operand, its axis in the result."""
  to: list[int | None] = [None] * len(shape)
  for position, axis in enumerate(batch):
    to[axis] = position
  free = [a for a in range(len(shape)) if a not in (*contract, *batch)]
  for position, axis in enumerate(free):
    to[axis] = offset + position
  return tuple(to)


def _apply(
  dimension_numbers: Any,
  precision: Any,
  lhs: jax.Array,
  rhs: jax.Array,
  total: Any,
) -> jax.Array:
  # XLA on CPU chooses a kernel for the product, then folds transposes into it;
  # of bfloat16 with float32 sums none is left for that, and the run fails.
  wide = lhs.dtype == jnp.bfloat16 and total == jnp.float32
  alone = wide and _on_cpu()
  if alone:
    lhs, rhs = lax.optimization_barrier((lhs, rhs))
  y = lax.dot_general(
    lhs,
    rhs,
    dimension_numbers,
    precision=precision,
    preferred_element_type=total,
  )
  return lax.optimization_barrier(y) if alone else y


def _on_cpu() -> bool:
  return jax.default_backend() == "cpu"


def _pull(
  dimension_numbers: Any,
  precision: Any,
  lhs: jax.Array,
  g: jax.Array,
  coded: bool,
) -> jax.Array:
  """The cotangent of the right operand of an `_apply` without batches, on CPU.

  g^T x, transposed, in place of x^T g, as JAX has it: XLA on CPU has its best
  kernel for a product that sums over rows on the left and columns on the right,
  and copies the cotangent, transposed, for the other. Codes are written out
  transposed before; of a float operand XLA makes that by itself.

  Args:
    dimension_numbers: of `_apply`.
    precision: the same.
    lhs: the left operand.
    g: the cotangent of the result.
    coded: whether `lhs` is codes.
  """
  (contract, summed), _ = dimension_numbers
  free = [a for a in range(lhs.ndim) if a not in contract]
  sizes = [lhs.shape[a] for a in contract]
  rows = jnp.transpose(lhs, [*free, *contract])
  columns = jnp.reshape(rows, (-1, math.prod(sizes))).T
  if coded:
    columns = lax.optimization_barrier(columns)
  y = lax.dot_general(
    jnp.reshape(g, (columns.shape[1], -1)),
    columns,
    (((0,), (1,)), ((), ())),
    precision=precision,
  )
  y = jnp.reshape(y, (*g.shape[len(free) :], *sizes))
  order = [*(a for a in range(y.ndim) if a not in summed), *summed]
  return jnp.transpose(y, [order.index(axis) for axis in range(y.ndim)])


def dot_general(
  x: _core.Operand,
  w: _core.Operand,
  dimension_numbers: DotDimensions,
  *,
  precision: lax.PrecisionLike = None,
  form: _form.Form = "auto",
  grad_precision: _core.GradPrecision = "float32",
) -> jax.Array:
  """`lax.dot_general` of two tensors, each a float array or `Quantized`.

  Forward: `(codes_x . codes_w) * s_x * s_w`; equal to the product of the
  values, exactly for one-bit codes up to the rounding of the scales. Backward:
  the gradients of the values. An operand whose scale varies along a contracted
  axis, or that has no codes, enters as its value.

  Args:
    x: left operand.
    w: right operand.
    dimension_numbers: as in `lax.dot_general`.
    precision: of a float product, as in `lax.dot_general`.
    form: "int8" (sums in int32), "bfloat16" or "float32" (sums in float32) for
      a product of codes with codes; "auto" picks by shape and device.
    grad_precision: the dtype of both operands of the gradient products, and
      of their results; sums inside are float32. "float32" is exact; bfloat16
      values have bfloat16 gradient products whatever it says.

  Returns:
    An array of the values' common dtype, shaped as `lax.dot_general` has it.

  Raises:
    errors.UserError: if the form or precision is unknown, or the form is too
      narrow for the codes.
  """
  (lhs_c, rhs_c), (lhs_b, rhs_b) = dimension_numbers
  numbers = tuple(
    tuple(tuple(int(a) for a in axes) for axes in pair)
    for pair in ((lhs_c, rhs_c), (lhs_b, rhs_b))
  )
  rows = x.ndim - len(lhs_c)
  geometry = _geometry.Geometry(
    apply=functools.partial(_apply, numbers, precision),
    lhs_out=_where(x.shape, numbers[0][0], numbers[1][0], len(lhs_b)),
    rhs_out=_where(w.shape, numbers[0][1], numbers[1][1], rows),
    out_ndim=rows + w.ndim - len(rhs_c) - len(rhs_b),
    kind="dot",
    groups=math.prod(x.shape[a] for a in lhs_b),
    rowwise=set(numbers[0][0]) == set(range(x.ndim)[-len(lhs_c) :]),
    pull=None
    if lhs_b or not _on_cpu()
    else functools.partial(_pull, numbers, precision),
  )
  return _core.product(x, w, geometry, form=form, grad_precision=grad_precision)


def _einsum(
  equation: str, precision: Any, lhs: jax.Array, rhs: jax.Array, total: Any
) -> jax.Array:
  return jnp.einsum(
    equation, lhs, rhs, precision=precision, preferred_element_type=total
  )


def einsum(
  equation: str,
  x: _core.Operand,
  w: _core.Operand,
  *,
  precision: lax.PrecisionLike = None,
  form: _form.Form = "auto",
  grad_precision: _core.GradPrecision = "float32",
) -> jax.Array:
  """`jnp.einsum` of two tensors, each a float array or `Quantized`.

  Args:
    equation: two operands and an explicit result, each letter once for an
      operand, "..." not used: "btd,dhk->bthk".
    x: left operand.
    w: right operand.
    precision: as in `jnp.einsum`.
    form: as in `dot_general`.
    grad_precision: as in `dot_general`.

  Raises:
    errors.UserError: if the equation is of another kind.
  """
  terms = equation.replace(" ", "").replace("->", ",").split(",")
  if (
    "->" not in equation
    or "." in equation
    or len(terms) != 3
    or any(len(set(term)) != len(term) for term in terms)
  ):
    raise errors.UserError(
      f"einsum {equation!r}: write two operands and the result, with each"
      ' letter once in each ("btd,dhk->bthk")'
    )
  left, right, out = terms

  def place(term: str) -> tuple[int | None, ...]:
    return tuple(out.index(a) if a in out else None for a in term)

  batch = [a for a in left if a in right and a in out]
  geometry = _geometry.Geometry(
    apply=functools.partial(_einsum, equation.replace(" ", ""), precision),
    lhs_out=place(left),
    rhs_out=place(right),
    out_ndim=len(out),
    kind="dot",
    groups=math.prod(x.shape[left.index(a)] for a in batch),
  )
  return _core.product(x, w, geometry, form=form, grad_precision=grad_precision)
