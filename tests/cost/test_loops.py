"""Loops, branches, dead code, and what is listed because it is not counted."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from jbin import bits, cost

_X = jax.ShapeDtypeStruct((2, 4), jnp.float32)
_SQUARE = jax.ShapeDtypeStruct((4, 4), jnp.float32)
_MACS = 2 * 4 * 4


def _macs(fn, *args, **options):
  return sum(cost.count(fn, *args, **options).macs.values())


# --- dead code --------------------------------------------------------------


def _dead_end(x, w):
  x @ w @ w
  return x @ w


def _dead_result(x, w):
  return jax.jit(lambda x, w: (x @ w, x @ w @ w))(x, w)[0]


def _dead_operand(x, w):
  @jax.custom_vjp
  def first(value, codes):
    del value
    return codes

  first.defvjp(lambda a, b: (first(a, b), None), lambda _, g: (g, g))
  return jax.checkpoint(first)(x @ w @ w, x @ w)


def _dead_carry(x, w):
  step = lambda c, _: ((c[0] @ w, c[1] @ w), None)
  return lax.scan(step, (x, x), None, length=1)[0][0]


def _dead_row(x, w):
  step = lambda c, _: (c @ w, c @ w @ w)
  return lax.scan(step, x, None, length=1)[0]


def _dead_branch_operand(x, w):
  extra = x @ w
  return lax.cond(
    lax.optimization_barrier(True),
    lambda a, b: a,
    lambda a, b: -a,
    x @ w,
    extra,
  )


@pytest.mark.parametrize(
  "net",
  [
    _dead_end,
    _dead_result,
    _dead_operand,
    _dead_carry,
    _dead_row,
    _dead_branch_operand,
  ],
)
def test_what_is_not_used_is_not_counted(net):
  assert _macs(net, _X, _SQUARE, weights=1) == _MACS


def test_a_carry_that_feeds_another_is_used():
  def net(x, w):
    step = lambda c, _: ((c[0] + c[1], c[1] @ w), None)
    return lax.scan(step, (x, x), None, length=3)[0][0]

  assert _macs(net, _X, _SQUARE, weights=1) == 3 * _MACS


def test_marks_and_element_wise_work_are_counted_where_used():
  def net(x):
    bits.mark(jnp.exp(x), "dead")
    return bits.mark(jnp.tanh(x), "alive", per_element=3).sum()

  report = cost.count(net, _X)
  assert report.elementwise == {"alive": 24}
  assert report.elementwise_by_primitive == {"tanh": 8, "reduce_sum": 8}


# --- branches ---------------------------------------------------------------


def test_the_dearest_branch_is_counted_and_said():
  def net(i, x, w):
    low = lambda x: bits.tag(jnp.sign(x), 1) @ bits.tag(jnp.sign(w), 1)
    return lax.switch(i, [lambda x: x, low, lambda x: x @ w], x)

  report = cost.count(
    net, jax.ShapeDtypeStruct((), jnp.int32), _X, _SQUARE, weights=2
  )
  assert report.macs == {(32, 32): _MACS}
  (row,) = report.branches
  assert row.ace == (0, 32, 32_768)
  assert (row.macs, row.counted) == ((0, 32, 32), 2)


def test_what_any_branch_hides_is_listed():
  def net(p, x):
    return lax.cond(p, jnp.linalg.cholesky, lambda x: x @ x, x)

  report = cost.count(net, jax.ShapeDtypeStruct((), jnp.bool_), _SQUARE)
  assert report.macs == {(32, 32): 64}
  assert [row.primitive for row in report.not_counted] == ["cholesky"]


def test_a_tag_leaves_a_cond_if_all_branches_have_one():
  def net(p, x, wide):
    q = lax.cond(
      p,
      lambda x: bits.tag(jnp.sign(x), 1) * 0.5,
      lambda x: bits.tag(jnp.round(x), 4) if wide else x,
      x,
    )
    return q @ jnp.ones((4, 4))

  p = jax.ShapeDtypeStruct((), jnp.bool_)
  assert cost.count(net, p, _X, True).macs == {(4, 32): _MACS}
  assert cost.count(net, p, _X, False).macs == {(32, 32): _MACS}


# --- loops ------------------------------------------------------------------


def test_nested_scans_multiply():
  def net(x, w):
    inner = lambda c, _: (c @ w, None)
    outer = lambda c, _: (lax.scan(inner, c, None, length=3)[0], None)
    return lax.scan(outer, x, None, length=5)[0]

  report = cost.count(net, _X, _SQUARE, weights=1)
  assert report.macs == {(32, 32): 15 * _MACS}
  assert report.weights_by_bits == {32: 16}  # one weight, used 15 times


def test_a_scan_of_length_zero_costs_nothing():
  net = lambda x, w: lax.scan(lambda c, _: (c @ w, None), x, None, length=0)[0]
  assert _macs(net, _X, _SQUARE, weights=1) == 0


def test_a_while_is_listed_with_the_cost_of_one_trip():
  def net(x, w):
    with jax.named_scope("solver"):
      return lax.while_loop(lambda c: c.sum() < 3, lambda c: c @ w, x)

  report = cost.count(net, _X, _SQUARE, weights=1)
  (row,) = report.not_counted
  assert report.macs == {}
  assert (row.primitive, row.where) == ("while", "solver")
  assert row.macs_per_trip == _MACS
  assert "trips" in row.reason


def test_weights_given_up_by_a_scan_are_followed():
  def net(x, w):
    signs = lax.scan(lambda c, row: (c, jnp.sign(row)), 0, w)[1]
    return lax.scan(lambda x, s: (x @ bits.tag(s, 1), None), x, signs)[0]

  stacked = jax.ShapeDtypeStruct((3, 4, 4), jnp.float32)
  report = cost.count(net, _X, stacked, weights=1)
  assert report.weights_by_bits == {1: 48}
  assert report.layers[0].weights == 48


# --- the list of what is not counted ----------------------------------------


@pytest.mark.parametrize(
  ("net", "primitive"),
  [
    (jnp.linalg.cholesky, "cholesky"),
    (lambda x: jnp.fft.fft(x).real, "fft"),
    (lambda x: jnp.cumsum(x, 0), "cumsum"),
    (jnp.sort, "sort"),
    (lambda x: lax.population_count(x.astype(jnp.uint32)), "population_count"),
    (
      lambda x: jax.pure_callback(lambda a: a, _SQUARE, x),
      "pure_callback",
    ),
    (
      lambda x: lax.linalg.triangular_solve(x, x, lower=True),
      "triangular_solve",
    ),
  ],
)
def test_no_cost_is_silently_zero(net, primitive):
  report = cost.count(net, _SQUARE)
  rows = [row for row in report.not_counted if row.primitive == primitive]
  assert rows
  assert rows[0].reason
  assert rows[0].shapes[0] == (4, 4)
  text = str(report)
  assert f"NOT COUNTED: {primitive}" in text
  assert report.to_json()["not_counted"][0]["primitive"]


def test_a_listed_primitive_in_a_scan_says_how_often():
  net = lambda x: lax.scan(
    lambda c, _: (jnp.linalg.cholesky(c), None), x, None, length=7
  )[0]
  (row,) = cost.count(net, _SQUARE).not_counted
  assert row.repeats == 7
