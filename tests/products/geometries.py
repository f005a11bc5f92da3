"""Products of every geometry, each with the float product of the same."""

import jax.numpy as jnp
from jax import lax

from jbin import products

PLAIN = (((1,), (0,)), ((), ()))


def _dot(dimension_numbers):
  def product(x, w, **options):
    return products.dot_general(x, w, dimension_numbers, **options)

  return product, lambda x, w: lax.dot_general(x, w, dimension_numbers)


def _einsum(equation):
  def product(x, w, **options):
    return products.einsum(equation, x, w, **options)

  return product, lambda x, w: jnp.einsum(equation, x, w)


def _conv(strides, padding, **keywords):
  def product(x, w, **options):
    return products.conv_general_dilated(
      x, w, strides, padding, **keywords, **options
    )

  def reference(x, w):
    spatial = "HWD"[: x.ndim - 2]
    names = (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C")
    return lax.conv_general_dilated(
      x, w, strides, padding, dimension_numbers=names, **keywords
    )

  return product, reference


def _transposed(strides, padding, **keywords):
  def product(x, w, **options):
    return products.conv_transpose(
      x, w, strides, padding, **keywords, **options
    )

  return product, lambda x, w: lax.conv_transpose(
    x, w, strides, padding, **keywords
  )


# name: (product and its reference), shapes of both operands.
GEOMETRIES = {
  "dot": (_dot(PLAIN), (6, 19), (19, 5)),
  "dot of whole bytes": (_dot(PLAIN), (9, 40), (40, 32)),
  "dot of a row": (_dot(PLAIN), (1, 24), (24, 8)),
  "dot along first axes": (_dot((((0,), (0,)), ((), ()))), (7, 4), (7, 3)),
  "dot with batches": (
    _dot((((2,), (1,)), ((0,), (0,)))),
    (3, 4, 11),
    (3, 11, 5),
  ),
  "dot with an inner batch": (
    _dot((((3, 1), (0, 2)), ((2,), (1,)))),
    (2, 5, 3, 4),
    (4, 3, 5, 6),
  ),
  "outer product": (_dot((((), ()), ((), ()))), (3, 2), (2, 9)),
  "einsum of heads": (_einsum("btd,dhk->bthk"), (2, 3, 9), (9, 2, 8)),
  "einsum of scores": (_einsum("bthk,bshk->bhts"), (2, 3, 2, 8), (2, 4, 2, 8)),
  "einsum turned": (_einsum("td, kd -> kt"), (3, 10), (5, 10)),
  "einsum with a sum of its own": (_einsum("btd,dk->bk"), (2, 140, 9), (9, 4)),
  "conv": (_conv((1, 1), "SAME"), (2, 5, 5, 9), (3, 3, 9, 6)),
  "conv of whole bytes": (
    _conv((2, 1), "VALID"),
    (2, 6, 5, 32),
    (3, 2, 32, 32),
  ),
  "conv in groups": (
    _conv((1, 1), "SAME", feature_group_count=3),
    (2, 4, 4, 12),
    (3, 3, 4, 6),
  ),
  "depthwise": (
    _conv((2, 2), "SAME", feature_group_count=8),
    (2, 5, 4, 8),
    (3, 3, 1, 8),
  ),
  "dilated": (
    _conv((1, 1), ((2, 1), (0, 3)), rhs_dilation=(2, 1)),
    (2, 6, 5, 3),
    (3, 3, 3, 4),
  ),
  "spread out": (
    _conv((1, 2), ((1, 1), (2, 0)), lhs_dilation=(2, 3)),
    (2, 3, 3, 5),
    (2, 3, 5, 4),
  ),
  "transposed": (_transposed((2, 2), "SAME"), (2, 3, 4, 5), (3, 3, 5, 6)),
  "transposed and dilated": (
    _transposed((1, 3), ((2, 1), (0, 3)), rhs_dilation=(2, 1)),
    (2, 4, 3, 4),
    (2, 4, 4, 3),
  ),
  "transposed, one axis": (_transposed((2,), "VALID"), (2, 5, 8), (3, 8, 4)),
  "one axis": (_conv((1,), ((4, 0),)), (2, 7, 6), (5, 6, 3)),
  "three axes": (_conv((1, 2, 1), "SAME"), (2, 3, 4, 3, 5), (2, 2, 1, 5, 4)),
}
