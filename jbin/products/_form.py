"""Which arithmetic a product of codes uses: the one place that decides.

Every form is exact for one-bit codes. A narrow type is only fast on some
shapes: on CPU, XLA multiplies int8 by tuned kernels where the operands are
large enough, and by a naive loop, many times slower, elsewhere; bfloat16 it
widens where the processor has no products of it. The choice reads shapes, the
default backend and the processor's features at trace time.
"""

from __future__ import annotations

import functools
import pathlib
import re
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
_EXACT = 2**24  # the first integer that float32 does not count beyond


@functools.cache
def features() -> frozenset[str]:
  """What this machine's processor says that it has; {} where it is silent."""
  try:
    text = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")
  except OSError:
    return frozenset()
  found = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
  return frozenset(found[1].split() if found else ())


def choose(
  kind: Literal["dot", "conv"],
  *,
  rows: int,
  contracted: int,
  columns: int,
  groups: int,
  codes: tuple[Any, Any],
  largest: int = 1,
  spread: bool = False,
  rowwise: bool = False,
) -> Form:
  """The fastest exact form for a product of two arrays of codes.

  Args:
    kind: a matrix product or a convolution.
    rows: rows of the left operand (positions, for a convolution).
    contracted: length of the contraction (input channels for each group).
    columns: columns of the right operand (output channels).
    groups: feature groups, or batch size of a batched product.
    codes: the dtypes of the two operands' codes.
    largest: the greatest magnitude of a product of two codes.
    spread: whether zeros lie between the input's elements (`lhs_dilation`): no
      tuned integer kernel does that.
    rowwise: whether the contracted axes are the left operand's last.
  """
  if any(dtype == jnp.float32 for dtype in codes):
    return "float32"  # more levels than bfloat16 has integers
  int8 = all(dtype == jnp.int8 for dtype in codes)
  backend = jax.default_backend()
  if backend == "cpu":
    alone = groups == 1 and not spread
    large = rows >= _LEAST_ROWS and min(contracted, columns) >= _LEAST_WIDTH
    integers = int8 and large and alone
    exact = largest * contracted < _EXACT
    fast = rowwise and exact and rows >= _LEAST_ROWS
    # A unit for int8 matrices is twice as fast as one for bfloat16; vectors of
    # bfloat16 are faster than those of int8, and than float32 on any shape.
    unit = integers and "amx_int8" in features()
    if fast and not unit and "avx512_bf16" in features():
      return "bfloat16"
    return "int8" if integers else "float32"
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
