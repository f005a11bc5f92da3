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

from jbin import bits, quantizers, schedules
from tests.quantizers import formulas
from tests.quantizers.formulas import CHANNEL, EXAMPLE, SHAPE, TENSOR

Array = np.ndarray


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


def _rows():
  q, half = quantizers, schedules.linear(2.0, 1.0)
  bounds, bound = formulas.bounds(CHANNEL), formulas.bounds(TENSOR)
  unsigned = q.ema_bounds(4, signed=False)
  tensor = q.ema_bounds(4, per_channel=False)
  late = q.poke_weight(1, start=0.5)
  return {
    "sign": [
      Row(q.sign(), formulas.plain(1.0)),
      Row(q.sign(half), formulas.plain(1.5), progress=0.5),
    ],
    "xnor": [
      Row(q.xnor(), formulas.xnor(CHANNEL), CHANNEL),
      Row(q.xnor(EXAMPLE, True), formulas.xnor(EXAMPLE, True), EXAMPLE),
      Row(q.xnor(TENSOR), formulas.xnor(TENSOR)),
      Row(q.xnor((0, 1, 2)), formulas.xnor((0, 1, 2)), (0, 1, 2)),
    ],
    "dorefa_weight": [
      Row(q.dorefa_weight(k), formulas.dorefa_weight(k)) for k in (1, 2, 4, 8)
    ],
    "dorefa_activation": [
      Row(q.dorefa_activation(k), formulas.dorefa_activation(k))
      for k in (1, 2, 8)
    ],
    "absmax": [
      Row(q.absmax(8), formulas.absmax(8, CHANNEL), CHANNEL),
      Row(q.absmax(4, EXAMPLE), formulas.absmax(4, EXAMPLE), EXAMPLE),
      Row(q.absmax(2, TENSOR), formulas.absmax(2, TENSOR)),
    ],
    "poke_activation": [
      Row(q.poke_activation(), formulas.poke_binary(3.0)),
      Row(q.poke_activation(half), formulas.poke_binary(1.5), progress=0.5),
    ],
    "poke_weight": [
      Row(q.poke_weight(1), formulas.poke_binary(None), CHANNEL),
      Row(q.poke_weight(4), formulas.poke_integer(4, CHANNEL), CHANNEL),
      Row(q.poke_weight(8), formulas.poke_integer(8, CHANNEL), CHANNEL),
      Row(late, formulas.floats, progress=0.49, coded=False),
      Row(late, formulas.poke_binary(None), CHANNEL, 0.5, coded=False),
    ],
    "ema_bounds": [
      Row(
        q.ema_bounds(8),
        formulas.poke_integer(8, CHANNEL),
        CHANNEL,
        variables=bounds,
        coded=False,
      ),
      Row(
        unsigned,
        formulas.poke_integer(4, CHANNEL, signed=False),
        CHANNEL,
        variables=bounds,
        coded=False,
      ),
      Row(
        tensor, formulas.poke_integer(4, TENSOR), variables=bound, coded=False
      ),
      Row(
        q.ema_bounds(8), formulas.floats, variables=formulas.unset, coded=False
      ),
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
  (x, g), (q, dx) = _run(row, formulas.tensor())
  _check(row, x, g, q, dx)


@every_row
def test_dtype_is_kept(row):
  """bfloat16 in, bfloat16 out: the levels of the input read as float32."""
  (x, g), (q, dx) = _run(row, formulas.tensor(), jnp.bfloat16)
  assert q.value.dtype == dx.dtype == q.dtype == jnp.bfloat16
  assert q.scale is None or q.scale.dtype == jnp.float32
  _check(row, x, g, q, dx, rtol=2.0**-8)


@every_row
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=str)
def test_value_is_codes_times_scale(row, dtype):
  (x, _), (q, _) = _run(row, formulas.tensor(), dtype)
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
  narrow = jnp.int8 if low >= -128 and high <= 127 else jnp.bfloat16
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
  if row.formula is formulas.floats:
    pytest.skip("not active: floats pass")
  _, (q, _) = _run(row, 3 * formulas.tensor())
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
  x = formulas.tensor()
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
  x = formulas.tensor()

  def total(x):
    q = _quantize(row, x, row.variables(formulas.tensor()))
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
  x, g = (
    np.stack([formulas.tensor(), 2 * formulas.tensor()[::-1]]),
    np.stack([_upstream()] * 2),
  )
  one = formulas.bounds(row.kept)(x[0]) if row.variables(x[0]) else {}
  if row.formula is formulas.floats and one:
    one = formulas.unset(x[0])

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
  x, g = formulas.tensor(), _upstream()
  spec = NamedSharding(mesh, PartitionSpec("d"))
  put = [jax.device_put(a, spec) for a in (x, g)]
  q, dx = _jitted(row)(*put, row.variables(x))
  assert q.value.sharding.is_equivalent_to(spec, 3)
  _check(row, x, g, q, dx)


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
