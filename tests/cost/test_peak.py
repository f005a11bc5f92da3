"""The most bytes that a program keeps, against sums by hand and XLA's."""

import json

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

from jbin import bits, cost

B, H = 16, 32
ACT = 4 * B * H  # bytes of an activation
KERNEL = 4 * H * H
N = 6  # layers of the deep programs


def _array(*shape, dtype=jnp.float32):
  return jax.ShapeDtypeStruct(shape, dtype)


_X, _W, _STACK = _array(B, H), _array(H, H), _array(N, H, H)


def _peak(fn, *args, **options):
  return cost.peak(fn, *args, weights=0, **options)


# --- Plain programs -----------------------------------------------------------


def test_operands_and_results_are_there_together():
  found = _peak(lambda w, x: jnp.tanh(x @ w) @ w, _W, _X)
  # While tanh runs, its operand and its result; then that and the product.
  assert found.bytes == 2 * ACT
  assert (found.primitive, found.phase) == ("tanh", "forward")
  assert found.arguments_bytes == ACT + KERNEL
  assert found.total_bytes == 3 * ACT + KERNEL
  assert found.results_bytes == ACT
  assert found.by_dtype == {"float32": 2 * ACT}
  assert [row.what for row in found.held] == ["dot_general", "tanh"]


def test_what_a_later_equation_reads_stays():
  def fn(w, x):
    a = x @ w
    b = a @ w
    c = b @ w
    return a, c  # a is a result, so b and c come beside it

  assert _peak(fn, _W, _X).bytes == 3 * ACT


def test_dead_code_and_views_keep_nothing():
  def fn(w, x):
    jnp.exp(x @ w)
    return x.T.reshape(-1)[None] + jnp.zeros((1, B * H))

  assert _peak(fn, _W, _X).bytes == ACT


def test_a_result_that_is_an_argument_is_a_copy():
  found = _peak(lambda w, x: (x, x, w.sum()), _W, _X)
  assert found.bytes == found.results_bytes == 2 * ACT + 4


def test_donated_arguments_end_with_their_last_use():
  step = lambda w, x: jnp.tanh(x @ w)
  kept, given = (_peak(step, _W, _X, donate=d).total_bytes for d in ((), (1,)))
  assert kept == 3 * ACT + KERNEL
  assert given == 2 * ACT + KERNEL  # x goes before tanh runs


def test_widths_of_tags():
  def fn(w, x):
    codes = bits.tag(jnp.sign(x), 1)
    return codes @ w, codes

  found = _peak(fn, _W, _X)
  assert found.bytes == 2 * ACT
  assert found.tagged_bytes == ACT + ACT // 32
  half = cost.peak(lambda x: x.astype(jnp.bfloat16), _X)
  assert half.bytes == half.tagged_bytes == ACT // 2
  mask = cost.peak(lambda x: x > 0, _X)
  assert mask.bytes == B * H
  assert mask.tagged_bytes == B * H // 8


def test_element_wise_chains_can_be_fused():
  found = _peak(lambda w, x: (jnp.exp(jnp.tanh(x)) * 2 + 1).sum(), _W, _X)
  assert found.bytes == 2 * ACT
  assert found.fused_bytes == 4


def test_jit_and_custom_rules_change_nothing():
  @jax.custom_vjp
  def tanh(x):
    return jnp.tanh(x)

  tanh.defvjp(lambda x: (tanh(x), x), lambda x, g: (g / jnp.cosh(x) ** 2,))
  plain = _peak(lambda w, x: jnp.tanh(x @ w) @ w, _W, _X)
  called = _peak(jax.jit(lambda w, x: jax.jit(tanh)(x @ w) @ w), _W, _X)
  assert (called.bytes, called.total_bytes) == (plain.bytes, plain.total_bytes)


@pytest.mark.parametrize("length", [0, 3])
def test_a_shard_map_keeps_what_all_its_devices_do(length):
  def fn(w, x):
    c = jnp.tanh(bits.tag(jnp.sign(x @ w), 1) @ w)
    if not length:
      return c, c
    return lax.scan(lambda c, _: (jnp.tanh(c @ w), c), c, None, length)

  mesh = jax.sharding.AbstractMesh((4,), ("data",))
  data = P("data")
  shared = jax.shard_map(
    fn,
    mesh=mesh,
    in_specs=(P(), data),
    out_specs=(data, P(None, "data") if length else data),
  )
  whole, parts = _peak(fn, _W, _X), _peak(shared, _W, _X)
  for field in ("bytes", "tagged_bytes", "fused_bytes", "total_bytes"):
    assert getattr(parts, field) == getattr(whole, field), field
  assert parts.by_dtype == whole.by_dtype
  # What all devices have alike counts once.
  alike = jax.shard_map(
    lambda x: lax.psum(jnp.tanh(x), "data"),
    mesh=mesh,
    in_specs=data,
    out_specs=P(),
  )
  assert cost.peak(alike, _X).bytes == ACT + ACT // 4


def test_a_check_of_a_shard_map_knows_its_devices():
  auto = (jax.sharding.AxisType.Auto,)
  mesh = jax.make_mesh((2,), ("data",), auto, devices=jax.devices()[:2])
  fn = jax.shard_map(
    jnp.tanh, mesh=mesh, in_specs=P("data"), out_specs=P("data")
  )
  check = cost.memory_check(fn, _X)
  assert check.devices == 2
  assert any("one of 2 devices" in note for note in check.notes)


# --- Gradients ----------------------------------------------------------------


def _deep(layer):
  def loss(w, x):
    for _ in range(N):
      x = layer(x, w)
    return x.sum()

  return loss


def test_residuals_stay_until_backward_reads_them():
  found = _peak(jax.grad(_deep(lambda x, w: jax.nn.relu(x @ w))), _W, _X)
  # Of each layer its result (the next one's operand) but the last, and whether
  # it is above zero, as a byte an element.
  assert found.residual_bytes == (N - 1) * ACT + N * ACT // 4
  assert found.residual_tagged_bytes == (N - 1) * ACT + N * ACT // 32


def test_remat_keeps_operands_only():
  layer = lambda x, w: jnp.tanh(x @ w)
  plain = _peak(jax.grad(_deep(layer)), _W, _X)
  remat = _peak(jax.grad(_deep(jax.checkpoint(layer))), _W, _X)
  # tanh leaves its result and 1 - tanh^2; the result of the last layer is read
  # by nothing but the sum. A checkpoint leaves the operand of each layer, and
  # that of the first one is an argument.
  assert plain.residual_bytes == (2 * N - 1) * ACT + ACT
  assert remat.residual_bytes == (N - 1) * ACT
  assert remat.bytes < plain.bytes
  assert list(remat.by_phase) == ["forward", "recompute", "backward"]


def test_a_training_step_by_hand():
  """loss = sum(tanh(x w)), whose gradient is g (1 - t) (1 + t)."""
  loss = lambda w, x: jnp.tanh(x @ w).sum()
  found = _peak(jax.grad(loss), _W, _X)
  # Forward: z and t, then t and s = 1 - t. Backward, g being one number spread
  # out: t, s and a = g s; then t, a and b = a t; a, b and a + b; the product.
  assert found.by_phase == {"forward": 2 * ACT, "backward": 3 * ACT}
  assert found.residual_bytes == 2 * ACT


# --- Loops and branches -------------------------------------------------------


def test_a_scan_keeps_its_results_and_works_in_its_carry():
  def fn(w, x):
    return lax.scan(lambda x, w: (jnp.tanh(x @ w), x), x, w)

  found = _peak(fn, _STACK, _X)
  # The stacked carries, and in a trip: the slice of w, the carry, z and the
  # row that is handed out. x is an argument, so the carry is a copy of it.
  rows = N * ACT
  assert found.bytes == rows + max(
    KERNEL + 2 * ACT,  # slice, carry, z
    3 * ACT,  # carry, z, tanh
    3 * ACT,  # carry, tanh, and the row, a copy of the carry
  )


def test_a_loop_takes_over_the_operand_of_its_carry():
  def fn(w, x):
    start = x @ w
    return lax.fori_loop(0, N, lambda i, x: -x, start)

  assert _peak(fn, _W, _X).bytes == 2 * ACT


def test_a_while_keeps_what_one_trip_does():
  def fn(w, x):
    body = lambda c: (c[0] + 1, jnp.tanh(c[1] @ w), jnp.exp(c[2]))
    done = lambda c: (c[0] < 3) & (c[1].sum() > 0)
    return lax.while_loop(done, body, (0, x @ w, x))[1]

  # The counters, the carry, z or the result; the third carry is dead.
  assert _peak(fn, _W, _X).bytes == pytest.approx(2 * ACT, abs=16)


def test_scan_counts_as_the_layers_written_out():
  def loss(w, x):
    return (lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0] ** 2).sum()

  found = _peak(jax.grad(loss), _STACK, _X)
  # The stacked operands, results and 1 - tanh^2 of the layers.
  assert found.residual_bytes >= 3 * N * ACT
  more = _peak(jax.grad(loss), _array(2 * N, H, H), _X)
  rows = more.bytes - found.bytes
  assert rows == 3 * N * ACT + N * KERNEL  # and the gradients of the kernels
  remat = jax.checkpoint(lambda x, w: (jnp.tanh(x @ w), None))
  less = lambda w, x: (lax.scan(remat, x, w)[0] ** 2).sum()
  assert _peak(jax.grad(less), _STACK, _X).residual_bytes < N * ACT + 3 * ACT


def test_a_cond_keeps_what_its_largest_branch_does():
  def fn(x, p):
    wide = lambda x: jnp.exp(x[None] + jnp.tanh(jnp.ones((3, 1, 1)))).sum(0)
    return lax.cond(p, wide, jnp.tanh, x)

  found = cost.peak(fn, _X, _array(dtype=jnp.bool_))
  assert found.bytes == 2 * 3 * ACT + 4  # and the number of the branch


# --- Beside XLA ---------------------------------------------------------------


def _grads(layer):
  def loss(w, x):
    return (lax.scan(layer, x, w)[0] ** 2).sum()

  return jax.grad(loss)


_LAYER = lambda x, w: (jnp.tanh(x @ w), None)
_CASES = {
  "plain": (lambda w, x: jnp.tanh(x @ w[0]) @ w[1], ()),
  "scan": (_grads(_LAYER), ()),
  "remat": (_grads(jax.checkpoint(_LAYER)), ()),
  "donated": (
    lambda w, x: w - 0.1 * jax.grad(lambda w: jnp.tanh(x @ w[0]).sum())(w),
    0,
  ),
}


@pytest.mark.parametrize("name", _CASES)
def test_both_figures_are_near(name):
  fn, donate = _CASES[name]
  check = cost.memory_check(
    fn, _array(N, 128, 128), _array(64, 128), weights=0, donate=donate
  )
  ours = check.program
  assert check.argument == ours.arguments_bytes
  assert check.output == pytest.approx(ours.results_bytes, abs=64)
  assert check.alias == (ours.results_bytes if donate == 0 else 0)
  least = min(ours.fused_bytes, ours.recomputed_bytes) - check.alias
  # XLA takes both slices of the plain program first.
  most = ours.bytes + (64 * 128 * 4 if name == "plain" else 0)
  assert 0.9 * least <= check.compiled <= 1.01 * most
  assert check.notes
  table = json.loads(json.dumps(check.to_json()))
  assert table["compiled"] == check.temp + check.output - check.alias
  said = " ".join(table["notes"])
  assert ("donation" in said) == (donate == 0)
  assert ("the rest" in said) == (name == "plain")


def test_the_program_and_xla_agree_on_what_remat_saves():
  plain, remat = (
    cost.memory_check(
      _CASES[name][0], _array(N, 128, 128), _array(64, 128), weights=0
    )
    for name in ("scan", "remat")
  )
  ours = plain.program.bytes - remat.program.bytes
  assert plain.compiled - remat.compiled == pytest.approx(ours, rel=0.1)
