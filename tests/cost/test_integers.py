"""Integers that are added and multiplied keep honest widths."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from jbin import bits, cost

_X = jax.ShapeDtypeStruct((4, 6), jnp.float32)
_W = jax.ShapeDtypeStruct((6, 6), jnp.float32)


def _integer(flow, *, n=1, dtype=jnp.int8):
  """The bits that `flow` leaves of two integers with tags of n bits."""

  def program(x, y):
    x, y = (bits.tag(jnp.sign(a).astype(dtype), n) for a in (x, y))
    return lax.dot(flow(x, y), jnp.ones((6, 2), dtype))

  found = cost.count(program, _X, _X).macs
  ((left, right),) = found
  assert right == jnp.iinfo(dtype).bits
  return left


@pytest.mark.parametrize(
  ("flow", "n", "expected"),
  [
    (lambda x, y: x + y, 1, 2),
    (lambda x, y: x - y, 1, 2),
    (lambda x, y: x + y, 4, 5),
    (lambda x, y: x + y + y + x, 1, 4),
    (lambda x, y: x * y, 1, 2),
    (lambda x, y: x * y, 3, 6),
    (lambda x, y: x * y + x, 2, 5),
    (lambda x, y: -x, 1, 1),
    (lambda x, y: jnp.where(x > y, x, y), 3, 3),
    (lambda x, y: x * y, 8, 8),  # int8 holds no more: it wraps around
    (lambda x, y: x + 1, 2, 8),  # a number without a tag
    (jnp.maximum, 2, 8),
    (lambda x, y: jnp.concatenate([x[:2], (x + y)[2:]]), 1, 2),
  ],
)
def test_integers_have_the_width_that_holds_every_result(flow, n, expected):
  assert _integer(flow, n=n) == expected


@pytest.mark.parametrize(
  ("rows", "expected"), [(1, 1), (2, 2), (3, 3), (4, 3), (5, 4), (300, 10)]
)
def test_a_sum_of_signs_is_as_wide_as_its_length_needs(rows, expected):
  def program(x):
    codes = bits.tag(jnp.sign(x).astype(jnp.int16), 1)
    return lax.dot(codes.sum(0, dtype=jnp.int16), jnp.ones((6, 2), jnp.int16))

  x = jax.ShapeDtypeStruct((rows, 4, 6), jnp.float32)
  assert cost.count(program, x).macs == {(expected, 16): 4 * 6 * 2}


def test_a_product_of_codes_has_the_width_of_its_sum():
  def program(x, w):
    x, w = (bits.tag(jnp.sign(a).astype(jnp.int8), 1) for a in (x, w))
    y = lax.dot(x, w, preferred_element_type=jnp.int32)
    return lax.dot(y, jnp.ones((6, 2), jnp.int32))

  found = [(r.lhs_bits, r.rhs_bits) for r in cost.count(program, _X, _W).layers]
  assert found == [(1, 1), (32, 32)]


def test_integers_with_a_scale_are_no_integers_when_they_are_added():
  scaled = lambda x, y: x * jnp.int8(3) + y
  assert _integer(scaled) == 8


def test_integer_work_is_told_apart():
  def program(x, w):
    codes = jnp.sign(x).astype(jnp.int8)
    return (codes * 2 + 1) ^ jnp.sign(w).astype(jnp.int8)[:4]

  report = cost.count(program, _X, _W, weights=1)
  assert report.elementwise_by_primitive == {"sign": 24}
  assert report.integers_by_primitive == {"mul": 24, "add": 24, "xor": 24}
  left = report.left_out()
  assert left["integer element-wise operations on activations"] == 72
  assert report.to_json()["integers_by_primitive"]["xor"] == 24
  assert "integer element-wise operations on activations" in str(report)


def test_integer_work_in_a_loop_is_multiplied():
  program = lambda n: lax.fori_loop(0, 5, lambda _, n: n * n, n)
  n = jax.ShapeDtypeStruct((7,), jnp.int32)
  assert cost.count(program, n).integers_by_primitive == {"mul": 35}
