"""The tag: a bit-width, or an operation's name, that travels with a value.

A tag is an identity in the program (`jax.ad_checkpoint.checkpoint_name`), so
it is visible in the jaxpr under `jit`, `vmap`, `grad`, `scan`, `remat` and
`custom_vjp`, and it costs nothing: XLA never sees it. The cost counter, the
reports and the packers read the tags; nobody types a bit-width twice.
"""

from __future__ import annotations

import dataclasses
import re

import jax
from jax.ad_checkpoint import checkpoint_name

_BITS = re.compile(r"jbin\.bits=(\d+)")
_OP = re.compile(r"jbin\.op=([\w/.-]+)\*(\d+)")
MAX_BITS = 32


@dataclasses.dataclass(frozen=True)
class BitsTag:
  """What `tag` wrote: the elements of this value are `bits` wide."""

  bits: int


@dataclasses.dataclass(frozen=True)
class OpTag:
  """What `mark` wrote: this value's elements cost `per_element` scalar ops."""

  name: str
  per_element: int


def tag(x: jax.Array, bits: int) -> jax.Array:
  """Says that the elements of `x` are `bits` wide; `x` itself is unchanged.

  Forward `y = x`; backward `dx = dy`. Tag the *codes*, before the scale is
  multiplied on: the counter follows the tag through the scaling and sees along
  which axes the scale varies. Sums end a tag: after the straight-through idiom
  `x + stop_gradient(q - x)`, tag the result.

  Args:
    x: any shape, any dtype.
    bits: 1 to 32; ternary counts as 2.

  Raises:
    ValueError: if `bits` is not an integer from 1 to 32.
  """
  whole = isinstance(bits, int) and not isinstance(bits, bool)
  if not whole or not 1 <= bits <= MAX_BITS:
    raise ValueError(
      f"bits must be an integer from 1 to {MAX_BITS}, got {bits!r}; a value"
      " without a tag counts by its dtype"
    )
  return checkpoint_name(x, f"jbin.bits={bits}")


def mark(x: jax.Array, name: str, per_element: int = 1) -> jax.Array:
  """Names an element-wise operation for the cost report; `x` is unchanged.

  The report counts `x.size * per_element` scalar operations under `name`.
  Forward `y = x`; backward `dx = dy`.

  Args:
    x: the value whose elements are counted, any shape and dtype.
    name: letters, digits and `_ / . -`.
    per_element: scalar operations for each element of `x`, at least 1.

  Raises:
    ValueError: if the name has other characters or `per_element < 1`.
  """
  label = f"jbin.op={name}*{per_element}"
  if not _OP.fullmatch(label) or per_element < 1:
    raise ValueError(f"not an operation's name and count: {label!r}")
  return checkpoint_name(x, label)


def parse(name: str) -> BitsTag | OpTag | None:
  """Reads the `name` parameter of a `name` equation; None if not ours."""
  if found := _BITS.fullmatch(name):
    return BitsTag(int(found[1]))
  if found := _OP.fullmatch(name):
    return OpTag(found[1], int(found[2]))
  return None
