"""Loops, branches, dead code, and what is listed because it is not counted."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from jbin import bits, cost, errors
from jbin.cost import _walk

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


def test_the_weights_of_every_branch_are_held():
  def net(i, x, table, ws):
    one = lambda x, w: bits.tag(jnp.sign(x), 1) @ bits.tag(jnp.sign(w), 1)
    branches = [lambda x, w=w: one(x, w) for w in ws]
    look = lambda x: x + table[jnp.argmax(x, 1)]
    return lax.switch(i, [*branches, look], x)

  i, experts = jax.ShapeDtypeStruct((), jnp.int32), [_SQUARE] * 3
  report = cost.count(net, i, _X, _SQUARE, experts, weights=(2, 3))
  assert report.macs == {(1, 1): _MACS}
  assert report.weights_by_bits == {1: 48}
  assert report.lookups == []  # those of the branch are not counted
  held = report.memory()
  assert held.weights_by_bits == {1: 48}
  assert held.embeddings_by_bits == {32: 16}
  assert report.params["kernel"] == 48


@pytest.mark.parametrize("weight_in_test", [False, True])
def test_the_weights_of_a_loop_that_is_not_counted_are_held(weight_in_test):
  def net(x, w):
    product = lambda c: bits.tag(jnp.sign(c), 1) @ bits.tag(jnp.sign(w), 1)
    test, body = lambda c: c.sum() < 3, lambda c: c + 1
    if weight_in_test:
      test = lambda c: product(c).sum() < 3
    else:
      body = product
    return lax.while_loop(test, body, x)

  report = cost.count(net, _X, _SQUARE, weights=1)
  assert (report.macs, report.weights_by_bits) == ({}, {1: 16})
  assert report.memory().weights_by_bits == {1: 16}


def test_the_transfers_of_a_loop_that_is_not_counted_are_listed():
  def net(x):
    send = lambda c: lax.psum(c, "devices") / 2
    return lax.while_loop(lambda c: c.sum() < 3, send, x)

  mesh = jax.sharding.AbstractMesh((2,), ("devices",))
  spec = jax.sharding.PartitionSpec()
  run = jax.shard_map(
    net, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False
  )
  report = cost.count(run, _X)
  assert report.collectives == []
  assert [row.primitive for row in report.not_counted] == ["while", "psum"]
  assert "sends 32 bytes in each trip" in report.not_counted[1].reason


def test_what_a_branch_fills_for_another_ends_no_tag():
  """The gradient of a cond keeps codes that one branch alone has."""

  def net(p, x, fill):
    quantized = lambda x: bits.tag(jnp.sign(x), 1) * 0.5
    q = lax.cond(p, quantized, lambda x: jnp.full_like(x, fill), x)
    return q @ jnp.ones((4, 4))

  p = jax.ShapeDtypeStruct((), jnp.bool_)
  assert cost.count(net, p, _X, 0.0).macs == {(1, 32): _MACS}

  def step(w, x, p):
    sign = jax.custom_jvp(lambda x: bits.tag(jnp.sign(x), 1))
    sign.defjvp(lambda x, t: (sign(*x), t[0]))
    run = lambda w: lax.cond(p, lambda x: sign(x) @ w, lambda x: x, x).sum()
    return jax.grad(run)(w)

  pairs = cost.count(step, _SQUARE, _X, p, weights=0).macs
  assert all(1 in pair for pair in pairs)


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


def test_a_scan_of_length_zero_over_weights_gives_none():
  def net(x, w):
    rows = lax.scan(lambda c, row: (c, jnp.sign(row)), 0, w)[1]
    return x @ rows.reshape(4, 0)

  none = jax.ShapeDtypeStruct((0, 4), jnp.float32)
  assert _macs(net, _X, none, weights=1) == 0


def _solver(x, w):
  with jax.named_scope("solver"):
    return lax.while_loop(lambda c: c.sum() < 3, lambda c: c @ w, x)


def test_a_while_is_listed_with_the_cost_of_one_trip():
  report = cost.count(_solver, _X, _SQUARE, weights=1)
  (row,) = report.not_counted
  assert report.macs == {}
  assert (row.primitive, row.where, row.matrix_like) == (
    "while",
    "solver",
    True,
  )
  assert row.macs_per_trip == _MACS
  assert row.reason.endswith("give trips={'solver': n}")
  assert "give trips={'solver': n}" in " ".join(str(report).split())


@pytest.mark.parametrize("trips", [7, {"solver": 7}, {"solver": 0}])
def test_a_while_counts_the_trips_that_the_caller_says(trips):
  report = cost.count(_solver, _X, _SQUARE, weights=1, trips=trips)
  n = trips if isinstance(trips, int) else trips["solver"]
  assert report.macs == {(32, 32): n * _MACS}
  assert report.not_counted == []
  assert report.notes == [f"while 'solver': {n} trips, as the caller said"]
  # The test runs once more than the body.
  assert report.elementwise_by_primitive["lt"] == n + 1


def test_each_while_has_a_name_of_its_own():
  def net(x, w):
    step = lambda c: c @ w
    for _ in range(2):
      x = lax.while_loop(lambda c: c.sum() < 3, step, x)
    x = _solver(x, w)
    inner = lambda c: lax.while_loop(lambda c: c.max() < 9, step, c)
    with jax.named_scope("outer"):
      return lax.while_loop(lambda c: c.sum() < 5, inner, x)

  rows = cost.count(net, _X, _SQUARE, weights=1).not_counted
  found = [row.reason.partition("trips=")[2] for row in rows]
  names = ["while", "while#2", "solver", "outer", "outer#2"]
  assert found == [f"{{{name!r}: n}}" for name in names]
  trips = dict(zip(names, (2, 3, 5, 7, 11), strict=True))
  report = cost.count(net, _X, _SQUARE, weights=1, trips=trips)
  assert report.macs == {(32, 32): (2 + 3 + 5 + 7 * 11) * _MACS}
  assert report.not_counted == []
  # What is not said stays listed.
  del trips["solver"]
  (row,) = cost.count(net, _X, _SQUARE, weights=1, trips=trips).not_counted
  assert row.where == "solver"


def test_trips_of_no_loop_are_an_error():
  with pytest.raises(errors.UserError, match=r"\['solvr'\].*\['solver'\]"):
    cost.count(_solver, _X, _SQUARE, weights=1, trips={"solvr": 3})


def test_what_a_while_does_not_use_is_not_counted():
  def net(x, w):
    step = lambda c: (c[0] @ w, c[1] @ w, c[2] + 1)
    test = lambda c: c[2] < 5
    return lax.while_loop(test, step, (x, x, 0))[0]

  assert _macs(net, _X, _SQUARE, weights=1, trips=5) == 5 * _MACS


def test_a_loop_with_constant_bounds_needs_no_trips():
  net = lambda x, w: lax.fori_loop(0, 6, lambda _, c: c @ w, x)
  assert _macs(net, _X, _SQUARE, weights=1) == 6 * _MACS


@pytest.mark.parametrize("nested", [False, True])
def test_the_walk_of_a_scan_does_not_grow_with_its_length(nested, monkeypatch):
  steps = []
  plain = _walk.Walker.step
  monkeypatch.setattr(
    _walk.Walker,
    "step",
    lambda self, eqn, *rest: steps.append(eqn) or plain(self, eqn, *rest),
  )

  def walked(depth):
    def net(x, w):
      body = lambda x, w: (jax.nn.relu(bits.tag(x, 2) @ w) + x, x.sum())
      run = lambda x: lax.scan(body, x, w)
      if nested:
        inner = run
        run = lambda x: lax.scan(lambda x, _: inner(x), x, None, length=depth)
      return run(x)

    stacked = jax.ShapeDtypeStruct((depth, 4, 4), jnp.float32)
    steps.clear()
    report = cost.count(net, _X, stacked, weights=1)
    trips = depth**2 if nested else depth
    assert report.macs == {(2, 32): trips * _MACS}
    return len(steps)

  assert walked(1) == walked(100) == walked(100_000)


def test_integers_that_grow_in_a_loop_have_the_width_of_their_dtype():
  def net(x, w):
    codes = bits.tag(jnp.sign(x).astype(jnp.int16), 2)
    grown = lax.fori_loop(0, 9, lambda _, c: c + codes, codes)
    return lax.dot(grown, w.astype(jnp.int16))

  assert cost.count(net, _X, _SQUARE, weights=1).macs == {(16, 16): _MACS}


def test_three_carries_that_change_places_have_the_widest_tag():
  def net(x, w):
    tags = [bits.tag(jnp.round(x), n) for n in (1, 2, 4)]
    turn = lambda _, c: (c[1], c[2], c[0])
    return lax.fori_loop(0, 9, turn, tuple(tags))[0] @ w

  assert cost.count(net, _X, _SQUARE, weights=1).macs == {(4, 32): _MACS}


def test_weights_given_up_by_a_scan_are_followed():
  def net(x, w):
    signs = lax.scan(lambda c, row: (c, jnp.sign(row)), 0, w)[1]
    return lax.scan(lambda x, s: (x @ bits.tag(s, 1), None), x, signs)[0]

  stacked = jax.ShapeDtypeStruct((3, 4, 4), jnp.float32)
  report = cost.count(net, _X, stacked, weights=1)
  assert report.weights_by_bits == {1: 48}
  assert report.layers[0].weights == 48


def test_a_listed_primitive_in_a_scan_says_how_often():
  net = lambda x: lax.scan(
    lambda c, _: (jnp.linalg.cholesky(c), None), x, None, length=7
  )[0]
  (row,) = cost.count(net, _SQUARE).not_counted
  assert (row.repeats, row.elements) == (7, 7 * 16)
