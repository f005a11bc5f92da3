"""Which arithmetic a product of codes uses: the one place that decides.

Every form is exact for one-bit codes. A narrow type is only fast on some
shapes: on CPU, XLA multiplies int8 by tuned kernels where the operands are
large enough, and by a naive loop, many times slower, elsewhere. The
choice reads shapes and the default backend at trace time.
"""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp

Form = Literal["auto", "int8", "bfloat16", "float32"]

_ACCUMULATE = {
  "int8": jnp.int32,
  "bfloat16": jnp.float32,
  "float32": jnp.float32,
}
_LEAST_ROWS = 8  # fewer is a matrix-vector product
_LEAST_WIDTH = 32  # channels in and out


def choose(
  kind: Literal["dot", "conv"],
  *,
  rows: int,
  contracted: int,
  columns: int,
  groups: int,
  codes: tuple[Any, Any],
  spread: bool = False,
) -> Form:
  """The fastest exact form for a product of two arrays of codes.

  Args:
    kind: a matrix product or a convolution.
    rows: rows of the left operand (positions, for a convolution).
    contracted: length of the contraction (input channels for each group).
    columns: columns of the right operand (output channels).
    groups: feature groups, or batch size of a batched product.
    codes: the dtypes of the two operands' codes.
    spread: whether zeros lie between the input's elements (`lhs_dilation`): no
      tuned integer kernel does that.
  """
  int8 = all(dtype == jnp.int8 for dtype in codes)
  backend = jax.default_backend()
  if backend == "cpu":
    large = (
      rows >= _LEAST_ROWS
      and min(contracted, columns) >= _LEAST_WIDTH
      and groups == 1
      and not spread
    )
    return "int8" if int8 and large else "float32"
  # Integer convolutions are rare on GPUs, and a TPU's bfloat16 unit is exact
  # for codes; integer matrix products want dimensions that fill a tile.
  tiles = contracted % 16 == 0 and columns % 16 == 0 and rows >= 16
  if backend == "gpu" and kind == "dot" and int8 and tiles and groups == 1:
    return "int8"
  return "bfloat16"


def dtypes(form: Form) -> tuple[Any, Any]:
  """The dtype that operands take in this form, and that of the sum."""
  operand = {
    "int8": jnp.int8,
    "bfloat16": jnp.bfloat16,
    "float32": jnp.float32,
  }[form]
  return operand, _ACCUMULATE[form]
