"""What every quantizer promises; a new one adds its rows to `ROWS`.

A row is a quantizer with its options, and its value and gradient in plain
numpy, of float32 where an edge must be met exactly.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from jbin import bits, errors, quantizers, schedules
from jbin.quantizers import _base, _pokebnn
from tests import programs

Array = np.ndarray
EPS = np.finfo(np.float32).eps
SHAPE = (8, 5, 16)
CHANNEL, EXAMPLE, TENSOR = (-1,), (0,), ()


@dataclasses.dataclass(frozen=True)
class Row:
  """One quantizer with its options, in formulas.

  Attributes:
    quantizer: what is tested.
    formula: x -> (value, dy/dx), float32; NaN where rounding decides.
    kept: the axes along which the scale may vary.
    progress: for one with a schedule.
    variables: x -> the learned values and statistics.
    coded: whether there are codes.
  """

  quantizer: quantizers.Quantizer
  formula: Callable[[Array], tuple[Array, Array]]
  kept: tuple[int, ...] = TENSOR
  progress: float | None = None
  variables: Callable[[Array], Mapping[str, Any]] = lambda x: {}
  coded: bool = True


def _over(x, kept):
  return tuple(a for a in range(x.ndim) if a not in [k % x.ndim for k in kept])


def _sign(x):
  return np.where(x >= 0, np.float32(1), np.float32(-1))


def _plain(clip):
  return lambda x: (_sign(x), abs(x) <= np.float32(clip))


def _xnor(kept, keep_scale=False):
  def formula(x):
    s = abs(x).mean(_over(x, kept), keepdims=True, dtype=np.float64)
    inside = abs(x) <= 1
    return s * _sign(x), inside * (s if keep_scale else 1.0)

  return formula


def _dorefa_weight(k):
  n = 2**k - 1

  def formula(x):
    if k == 1:
      return abs(x).mean(dtype=np.float64) * _sign(x), np.ones_like(x)
    t = np.tanh(x)
    largest = abs(t).max() or np.float32(1)
    v = t / (2 * largest) + np.float32(0.5)
    return 2 * np.round(n * v) / n - 1, (1 - t**2) / largest

  return formula


def _dorefa_activation(k):
  n = np.float32(2**k - 1)
  return lambda x: (
    np.round(n * np.clip(x, 0, 1)) / n,
    (x >= 0) & (x * n <= n),
  )


def _absmax(p, kept):
  limit = 2 ** (p - 1) - 1

  def formula(x):
    s = abs(x).max(_over(x, kept), keepdims=True) / np.float32(limit)
    s = np.where(s > 0, s, 1)
    steps = x / s
    # XLA multiplies by 1 / limit, so a tie may go either way.
    tie = abs(abs(steps) % 1 - 0.5) < 1e-5
    return np.where(tie, np.nan, s * np.round(steps)), np.ones_like(x)

  return formula


def _poke_binary(bound):
  """The bound a number, or one for each channel of x."""

  def formula(x):
    b = np.float32(bound) if bound else abs(x).max((0, 1), keepdims=True)
    inside = abs(x) < np.float32(1 - 2.0**-7) * b
    return _sign(x) * (b + EPS) / 2, inside

  return formula


def _poke_integer(p, kept, signed=True):
  def formula(x):
    b = abs(x).max(_over(x, kept), keepdims=True) + EPS
    limit = np.float32(2 ** (p - 1) - 1 if signed else 2**p)
    steps = x * (limit / b)
    if signed:
      low, high, u = -limit, limit, steps
      codes = np.floor(np.clip(steps, low, high) + np.float32(0.5))
    else:
      low, high, u = 0, limit - 1, np.floor(steps)
      codes = np.clip(u, low, high)
    factor = ((u > low) & (u < high)) + 0.5 * ((u == low) | (u == high))
    return codes / (limit / b), factor

  return formula


def _floats(x):
  return x, np.ones_like(x)


def _bounds(kept):
  def variables(x):
    measured = abs(x).max(_over(x, kept))
    return {"bounds": jnp.asarray(np.reshape(measured, -1), jnp.float32)}

  return variables


def _unset(x):
  return {"bounds": jnp.full(x.shape[-1], -1.0)}


def _rows():
  q, half = quantizers, schedules.linear(2.0, 1.0)
  bounds, bound = _bounds(CHANNEL), _bounds(TENSOR)
  unsigned = q.ema_bounds(4, signed=False)
  tensor = q.ema_bounds(4, per_channel=False)
  late = q.poke_weight(1, start=0.5)
  return {
    "sign": [
      Row(q.sign(), _plain(1.0)),
      Row(q.sign(half), _plain(1.5), progress=0.5),
    ],
    "xnor": [
      Row(q.xnor(), _xnor(CHANNEL), CHANNEL),
      Row(q.xnor(EXAMPLE, True), _xnor(EXAMPLE, True), EXAMPLE),
      Row(q.xnor(TENSOR), _xnor(TENSOR)),
      Row(q.xnor((0, 1, 2)), _xnor((0, 1, 2)), (0, 1, 2)),
    ],
    "dorefa_weight": [
      Row(q.dorefa_weight(k), _dorefa_weight(k)) for k in (1, 2, 4, 8)
    ],
    "dorefa_activation": [
      Row(q.dorefa_activation(k), _dorefa_activation(k)) for k in (1, 2, 8)
    ],
    "absmax": [
      Row(q.absmax(8), _absmax(8, CHANNEL), CHANNEL),
      Row(q.absmax(4, EXAMPLE), _absmax(4, EXAMPLE), EXAMPLE),
      Row(q.absmax(2, TENSOR), _absmax(2, TENSOR)),
    ],
    "poke_activation": [
      Row(q.poke_activation(), _poke_binary(3.0)),
      Row(q.poke_activation(half), _poke_binary(1.5), progress=0.5),
    ],
    "poke_weight": [
      Row(q.poke_weight(1), _poke_binary(None), CHANNEL),
      Row(q.poke_weight(4), _poke_integer(4, CHANNEL), CHANNEL),
      Row(q.poke_weight(8), _poke_integer(8, CHANNEL), CHANNEL),
      Row(late, _floats, progress=0.49, coded=False),
      Row(late, _poke_binary(None), CHANNEL, 0.5, coded=False),
    ],
    "ema_bounds": [
      Row(
        q.ema_bounds(8),
        _poke_integer(8, CHANNEL),
        CHANNEL,
        variables=bounds,
        coded=False,
      ),
      Row(
        unsigned,
        _poke_integer(4, CHANNEL, signed=False),
        CHANNEL,
        variables=bounds,
        coded=False,
      ),
      Row(tensor, _poke_integer(4, TENSOR), variables=bound, coded=False),
      Row(q.ema_bounds(8), _floats, variables=_unset, coded=False),
    ],
  }


ROWS = _rows()
MEMBERS = [
  pytest.param(row, id=f"{name}-{i}")
  for name, rows in ROWS.items()
  for i, row in enumerate(rows)
]
every_row = pytest.mark.parametrize("row", MEMBERS)
every_quantizer = pytest.mark.parametrize(
  "row", [rows[0] for rows in ROWS.values()], ids=ROWS
)


def test_every_quantizer_has_a_row():
  assert set(quantizers.REGISTRY) == set(ROWS)


def _input():
  """Random, with edges, both zeros and a channel of zeros."""
  x = np.random.default_rng(3).normal(size=SHAPE).astype(np.float32)
  edges = [1.0, -1.0, 1.5, -1.5, 0.0, -0.0, 3 * (1 - 2.0**-7), 2.0, 0.5, 0.25]
  x[0, : len(edges) // 2, 1] = edges[::2]
  x[0, : len(edges) // 2, 2] = edges[1::2]
  x[..., 3] = 0.0
  return x


def _upstream():
  return np.linspace(-1, 2, np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)


def _quantize(row, x, variables):
  progress = None if row.progress is None else jnp.float32(row.progress)
  return row.quantizer(x, progress=progress, **variables)


def _pair(row, x, g, variables):
  """Everything that a quantizer gives, and the pull-back of `g`."""

  def run(x):
    q = _quantize(row, x, variables)
    return q.value, q

  _, pull, q = jax.vjp(run, x, has_aux=True)
  return q, pull(g)[0]


@functools.cache
def _jitted(row):
  return jax.jit(functools.partial(_pair, row))


def _run(row, x, dtype=jnp.float32):
  x, g = jnp.asarray(x, dtype), jnp.asarray(_upstream(), dtype)
  wide = np.asarray(x, np.float32)
  return (wide, np.asarray(g, np.float32)), _jitted(row)(
    x, g, row.variables(wide)
  )


def _check(row, x, g, q, dx, rtol=2e-6):
  value, factor = row.formula(x)
  got = np.asarray(q.value, np.float32)
  either = np.isnan(value)
  assert either.mean() < 0.02
  np.testing.assert_allclose(
    np.where(either, 0, got),
    np.where(either, 0, value),
    rtol=rtol,
    atol=rtol * float(np.nanmax(abs(value))),
  )
  np.testing.assert_allclose(
    np.asarray(dx, np.float32), g * factor, rtol=2 * rtol, atol=2 * rtol
  )


@every_row
def test_value_and_gradient_are_the_formulas(row):
  (x, g), (q, dx) = _run(row, _input())
  _check(row, x, g, q, dx)


@every_row
def test_dtype_is_kept(row):
  """bfloat16 in, bfloat16 out: the levels of the input read as float32."""
  (x, g), (q, dx) = _run(row, _input(), jnp.bfloat16)
  assert q.value.dtype == dx.dtype == q.dtype == jnp.bfloat16
  assert q.scale is None or q.scale.dtype == jnp.float32
  _check(row, x, g, q, dx, rtol=2.0**-8)


@every_row
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=str)
def test_value_is_codes_times_scale(row, dtype):
  (x, _), (q, _) = _run(row, _input(), dtype)
  assert q.shape == x.shape
  assert q.ndim == x.ndim
  assert q.bits == row.quantizer.bits
  if not row.coded:
    assert q.codes is None
    assert q.scale is None
    return
  codes = np.asarray(q.codes, np.float32)
  low, high = q.levels
  assert low <= codes.min()
  assert codes.max() <= high
  assert (codes == np.round(codes)).all()
  narrow = jnp.int8 if -128 <= low and high <= 127 else jnp.bfloat16
  assert q.codes.dtype == narrow
  scale = np.float32(1)
  if q.scale is not None:
    assert q.scale.ndim == x.ndim
    scale = np.asarray(q.scale)
    kept = [axis % x.ndim for axis in row.kept]
    assert all(n == 1 or a in kept for a, n in enumerate(scale.shape))
  np.testing.assert_allclose(
    np.asarray(q.value, np.float32),
    codes * scale,
    rtol=1e-6 if dtype == jnp.float32 else 2.0**-8,
  )


@every_row
def test_levels_of_a_channel_fit_its_bits(row):
  if row.formula is _floats:
    pytest.skip("not active: floats pass")
  _, (q, _) = _run(row, 3 * _input())
  value = np.asarray(q.value)
  kept = [axis % value.ndim for axis in row.kept]
  order = kept + [a for a in range(value.ndim) if a not in kept]
  rows = value.transpose(order).reshape(
    int(np.prod([value.shape[a] for a in kept])), -1
  )
  for entries in rows:
    assert len(np.unique(np.float32(entries))) <= 2**q.bits


def _ancestors(function, x):
  """What the equations say that the one output comes from."""
  jaxpr = jax.make_jaxpr(function)(x).jaxpr
  made = {id(v): e for e in jaxpr.eqns for v in e.outvars}
  queue, seen, found = list(jaxpr.outvars), set(), []
  while queue:
    var = queue.pop()
    equation = made.get(id(var))
    if equation is None or id(equation) in seen:
      continue
    seen.add(id(equation))
    if equation.primitive.name == "name":
      found.append(bits.parse(equation.params["name"]))
    queue.extend(equation.invars)
  return found


@every_row
def test_value_and_codes_come_from_a_tag(row):
  x = _input()
  variables = row.variables(x)
  outputs = ["value", "codes"] if row.coded else ["value"]
  for output in outputs:
    said = _ancestors(
      lambda x, output=output: getattr(_quantize(row, x, variables), output),
      x,
    )
    assert set(said) == {bits.BitsTag(row.quantizer.bits)}, output


@every_row
def test_codes_and_scale_carry_no_gradient(row):
  x = _input()

  def total(x):
    q = _quantize(row, x, row.variables(_input()))
    parts = [p for p in (q.codes, q.scale) if p is not None]
    return sum((p.astype(jnp.float32).sum() for p in parts), jnp.float32(0))

  np.testing.assert_array_equal(jax.jit(jax.grad(total))(x), 0)


@every_row
def test_constant_channels_are_finite(row):
  values = [0.0, 1.0, -3.0, 1e-30, 1e18, -1e-3, 0.5, -1.0]
  for x in (
    np.zeros(SHAPE),
    np.broadcast_to(np.array(values * 2), SHAPE),
    np.broadcast_to(np.array(values).reshape(8, 1, 1), SHAPE),
  ):
    _, (q, dx) = _run(row, x.astype(np.float32))
    assert np.isfinite(q.value).all()
    assert np.isfinite(dx).all()


@every_row
def test_random_tensors(row):
  """Any tensor: finite, codes in their range, value = codes * scale."""
  elements = st.floats(-100, 100, width=32, allow_subnormal=False)
  shape = SHAPE

  @hypothesis.settings(deadline=None, max_examples=8, database=None)
  @hypothesis.given(
    arrays.arrays(np.float32, shape, elements=elements, fill=elements)
  )
  def holds(x):
    _, (q, dx) = _run(row, x)
    assert np.isfinite(q.value).all()
    assert np.isfinite(dx).all()
    if row.coded:
      codes = np.asarray(q.codes, np.float32)
      assert q.levels[0] <= codes.min()
      assert codes.max() <= q.levels[1]
      scale = 1.0 if q.scale is None else np.asarray(q.scale)
      np.testing.assert_allclose(q.value, codes * scale, rtol=1e-6)

  holds()


def test_absmax_passes_every_gradient():
  """The largest entry too, wherever its quotient rounds to."""
  x = np.random.default_rng(0).normal(size=(16, 1, 4096)).astype(np.float32)
  for p in (2, 3, 4, 8):
    run = jax.jit(
      lambda x, p=p: jax.vjp(lambda x: quantizers.absmax(p)(x).value, x)[1](x)
    )
    np.testing.assert_allclose(run(x)[0], x, rtol=1e-6)


@every_row
def test_transformations_change_little(row):
  """vmap, scan and remat of the gradient, in one program.

  Sums are taken in another order, so a scale may differ in its last bits.
  """
  x, g = np.stack([_input(), 2 * _input()[::-1]]), np.stack([_upstream()] * 2)
  one = _bounds(row.kept)(x[0]) if row.variables(x[0]) else {}
  if row.formula is _floats and one:
    one = _unset(x[0])

  def pair(x, g):
    q, dx = _pair(row, x, g, one)
    return q.value, dx

  def remat(x, g):
    run = jax.checkpoint(lambda x: _quantize(row, x, one).value)
    return run(x), jax.grad(lambda x: (run(x) * g).sum())(x)

  @jax.jit
  def run(x, g):
    return {
      "loop": [jnp.stack(a) for a in zip(*map(pair, x, g), strict=True)],
      "vmap": jax.vmap(pair)(x, g),
      "scan": lax.scan(lambda c, a: (c, remat(*a)), None, (x, g))[1],
    }

  got = run(x, g)
  for name in ("vmap", "scan"):
    for mine, want in zip(got[name], got["loop"], strict=True):
      np.testing.assert_allclose(mine, want, rtol=1e-5, atol=1e-6)


@every_quantizer
def test_sharded_over_eight_devices(row):
  """A scale is that of the whole tensor, not of a device's part."""
  mesh = jax.make_mesh((8,), ("d",), (jax.sharding.AxisType.Auto,))
  x, g = _input(), _upstream()
  spec = NamedSharding(mesh, PartitionSpec("d"))
  put = [jax.device_put(a, spec) for a in (x, g)]
  q, dx = _jitted(row)(*put, row.variables(x))
  assert q.value.sharding.is_equivalent_to(spec, 3)
  _check(row, x, g, q, dx)


SCHEDULED = {
  "sign.clip": lambda h: quantizers.sign(h),
  "poke_activation.bound": lambda h: quantizers.poke_activation(h),
}


@pytest.mark.parametrize("make", SCHEDULED.values(), ids=SCHEDULED)
def test_a_schedule_is_traced_once_and_equals_its_number(make):
  schedule = schedules.linear(2.0, 1.0)
  assert make(schedule).scheduled
  assert not make(1.5).scheduled
  traces = []

  def pair(quantizer, x, progress=None):
    run = lambda x: quantizer(x, progress=progress).value
    return run(x), jax.grad(lambda x: run(x).sum())(x)

  @jax.jit
  def scheduled(x, progress):
    traces.append(progress)
    return pair(make(schedule), x, progress)

  x = _input()
  for progress in (0.0, 0.25, 0.5, 1.0):
    got = scheduled(x, np.float32(progress))
    want = pair(make(2.0 - progress), x)
    for mine, number in zip(got, want, strict=True):
      np.testing.assert_allclose(mine, number, rtol=1e-6)
  assert len(traces) == 1
  with pytest.raises(errors.UserError, match="needs a progress"):
    make(schedule)(x)


def test_poke_weight_switches_without_recompiling():
  quantizer = quantizers.poke_weight(1, start=7800 / 124800)
  run = jax.jit(lambda x, p: quantizer(x, progress=p).value)
  x = _input()
  on = quantizers.poke_weight(1)(x).value
  for step, want in ((0, x), (7799, x), (7800, on), (124800, on)):
    progress = schedules.progress_at(step, 124800)
    np.testing.assert_array_equal(run(x, progress), want)
  assert run._cache_size() == 1


def test_gate():
  x = _input()
  on = quantizers.xnor()(x)
  gated = jax.jit(lambda a, x: quantizers.gate(a, quantizers.xnor()(x), x))
  for active, want in ((True, on.value), (False, x)):
    got = gated(jnp.asarray(active), x)
    assert got.codes is None
    assert got.scale is None
    assert got.bits == 1
    np.testing.assert_allclose(got.value, want, rtol=1e-6)
  said = [tag for tag, _ in programs.tags(gated, jnp.asarray(True), x)]
  assert set(said) == {bits.BitsTag(1)}


def _statistics(quantizer, batches, progresses):
  """The running statistics in numpy."""
  over = (0, 1) if quantizer.per_channel else (0, 1, 2)
  size = SHAPE[-1] if quantizer.per_channel else 1
  now = {name: np.zeros(size) for name in _pokebnn.STATISTICS}
  now["bounds"] = np.full(size, -1.0)
  for x, progress in zip(batches, progresses, strict=True):
    there = x != 0
    count = there.sum(over)
    with np.errstate(invalid="ignore", divide="ignore"):
      batch = {
        "mean": x.sum(over) / count,
        "mean_abs": abs(x).sum(over) / count,
        "mean_sq": (x**2).sum(over) / count,
        "minimum": np.where(there, x, np.inf).min(over),
        "maximum": np.where(there, x, -np.inf).max(over),
      }
    for name, value in batch.items():
      new = now[name] + 0.1 * (value - now[name])
      now[name] = np.where(count > 0, new, now[name])
    if progress >= quantizer.start and (now["bounds"] < 0).all():
      now["bounds"] = np.maximum(abs(now["maximum"]), abs(now["minimum"]))
  return now


@pytest.mark.parametrize("per_channel", [True, False])
def test_ema_bounds_measures_then_freezes(per_channel):
  quantizer = quantizers.ema_bounds(4, start=0.5, per_channel=per_channel)
  rng = np.random.default_rng(1)
  # Channel 3 has nothing but zeros, and other entries are zeros here and there.
  batches = [_input() * rng.normal() + (_input() != 0) for _ in range(5)]
  batches = [x * (rng.random(SHAPE) < 0.8) for x in batches]
  batches = [x.astype(np.float32) for x in batches]
  progresses = [0.0, 0.25, 0.5, 0.75, 1.0]
  update = jax.jit(quantizer.update)
  state = quantizer.statistics(SHAPE[-1])
  bounds = []
  for step, (x, progress) in enumerate(zip(batches, progresses, strict=True)):
    state = update(x, progress=np.float32(progress), **state)
    want = _statistics(quantizer, batches[: step + 1], progresses[: step + 1])
    assert set(state) == set(want)
    for name, value in want.items():
      np.testing.assert_allclose(
        state[name], value, rtol=1e-5, atol=1e-6, err_msg=name
      )
    bounds.append(np.asarray(state["bounds"]))
    floats = quantizer(x, **state).value
    assert (progress < 0.5) == bool((floats == x).all())
  assert (bounds[1] == -1).all()
  assert (bounds[2] >= 0).all()
  if per_channel:
    assert bounds[2][3] == 0
  np.testing.assert_array_equal(bounds[2], bounds[4])
  assert update._cache_size() == 1


def test_ema_bounds_statistics_take_no_gradient():
  quantizer = quantizers.ema_bounds(4)
  state = quantizer.statistics(SHAPE[-1])

  def total(x):
    new = quantizer.update(x, progress=jnp.float32(1), **state)
    return sum(value.sum() for value in new.values())

  np.testing.assert_array_equal(jax.jit(jax.grad(total))(_input()), 0)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_poke_integer_on_half_integers(bits):
  x, limit = _input(), 2 ** (bits - 1)
  quantized = _pokebnn.integer(x, jnp.full((1, 1, 1), 2.0), bits, True, True)
  step = 2.0 / limit
  inside = np.clip(x / step, 2**-7 - limit, limit - 2**-7)
  np.testing.assert_allclose(
    quantized.value, (np.floor(inside) + 0.5) * step, rtol=1e-6
  )
  assert len(np.unique(quantized.codes)) <= 2**bits
  assert quantized.codes.dtype == (jnp.int8 if bits < 8 else jnp.bfloat16)


def test_narrowest():
  for levels, dtype in (
    ((-1, 1), jnp.int8),
    ((-128, 127), jnp.int8),
    ((0, 128), jnp.bfloat16),
    ((-255, 255), jnp.bfloat16),
    ((0, 257), jnp.float32),
  ):
    assert _base.narrowest(levels) == dtype


def test_make_without_exact_codes_has_none():
  x = jnp.array([-1.0, 0.0, 1.0])
  got = quantizers.make(x, None, bits=1, levels=(-1, 1), exact=False)
  assert got.codes is None
  np.testing.assert_array_equal(got.value, x)


def test_a_result_is_an_array_to_numpy_and_jax():
  q = quantizers.absmax(4)(_input())
  np.testing.assert_array_equal(np.asarray(q), q.value)
  assert np.asarray(q, np.float64).dtype == np.float64
  np.testing.assert_array_equal(jnp.add(q, 1), q.value + 1)


@every_row
def test_compares_hashes_and_prints_as_its_arguments(row):
  q = row.quantizer
  same = dataclasses.replace(q)
  assert q == same
  assert hash(q) == hash(same)
  assert type(q).__name__ in repr(q)
  channels = SHAPE[-1]
  assert not q.parameters(channels)
  assert bool(q.statistics(channels)) == isinstance(q, quantizers.ema_bounds)


@pytest.mark.parametrize(
  ("make", "text"),
  [
    (lambda: quantizers.dorefa_weight(0), "bits must be an integer from 1 to 8, got 0"),
    (lambda: quantizers.dorefa_activation(9), "bits must be an integer from 1 to 8, got 9"),
    (lambda: quantizers.dorefa_weight(1.5), "bits must be an integer from 1 to 8, got 1.5"),
    (lambda: quantizers.absmax(1), "bits must be an integer from 2 to 8, got 1"),
    (lambda: quantizers.ema_bounds(1), "bits must be an integer from 2 to 8, got 1"),
    (lambda: quantizers.poke_weight(0), "bits must be an integer from 1 to 8, got 0"),
    (lambda: quantizers.poke_weight(9), "bits must be an integer from 1 to 8, got 9"),
  ],
)
def test_bad_widths_are_user_errors(make, text):
  with pytest.raises(errors.UserError, match=text):
    make()
