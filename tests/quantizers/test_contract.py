"""What every quantizer promises; a new one adds its rows under `rows/`.

A row is a quantizer with its options, and its value and gradient in plain
numpy, of float32 where an edge must be met exactly.
"""

import dataclasses
import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from jbin import bits, quantizers
from tests.quantizers import formulas
from tests.quantizers.formulas import SHAPE
from tests.quantizers.rows import ROWS

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
  learned = {name: variables[name] for name in _learned(row, x)}

  def run(x, learned):
    q = _quantize(row, x, {**variables, **learned})
    return q.value, q

  _, pull, q = jax.vjp(run, x, learned, has_aux=True)
  dx, dlearned = pull(g)
  return q, dx, dlearned


def _learned(row, x):
  """The names of what the quantizer learns."""
  key = jax.random.key(0) if row.quantizer.seeded else None
  return jax.eval_shape(
    lambda x: row.quantizer.parameters(x.shape[-1], x, key), x
  )


@functools.cache
def _jitted(row):
  return jax.jit(functools.partial(_pair, row))


def _run(row, x, dtype=jnp.float32):
  x, g = jnp.asarray(x, dtype), jnp.asarray(_upstream(), dtype)
  wide = np.asarray(x, np.float32)
  return (wide, np.asarray(g, np.float32)), _jitted(row)(x, g, row.values(wide))


def _close(got, want, rtol):
  """As near as `rtol` of the largest entry; NaN in `want` is not compared."""
  got, want = np.asarray(got, np.float32), np.asarray(want, np.float32)
  either = np.isnan(want)
  assert either.mean() < 0.02
  largest = float(np.nanmax(abs(want), initial=0))
  np.testing.assert_allclose(
    np.where(either, 0, got),
    np.where(either, 0, want),
    rtol=rtol,
    atol=rtol * max(largest, 1.0),
  )


def _check(row, x, g, got, dtype=jnp.float32):
  q, dx, dlearned = got
  rtol = row.rtol if dtype == jnp.float32 else row.rtol16
  value, pull, *learned = row.formula(x)
  _close(q.value, value, rtol)
  _close(dx, pull(g) if callable(pull) else g * pull, 2 * rtol)
  pulls = learned[0] if learned else {}
  assert set(pulls) == set(dlearned), "the row lacks a learned gradient"
  for name, pull in pulls.items():
    want = pull(g) if callable(pull) else g * pull
    _close(np.reshape(dlearned[name], np.shape(want)), want, 8 * rtol)


@every_row
def test_value_and_gradient_are_the_formulas(row):
  (x, g), got = _run(row, formulas.tensor())
  _check(row, x, g, got)


@every_row
def test_dtype_is_kept(row):
  """bfloat16 in, bfloat16 out: the levels of the input read as float32."""
  (x, g), got = _run(row, formulas.tensor(), jnp.bfloat16)
  q, dx, _ = got
  assert q.value.dtype == dx.dtype == q.dtype == jnp.bfloat16
  assert q.scale is None or q.scale.dtype == jnp.float32
  _check(row, x, g, got, jnp.bfloat16)


@every_row
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=str)
def test_value_is_codes_times_scale(row, dtype):
  (x, _), (q, *_) = _run(row, formulas.tensor(), dtype)
  assert q.shape == x.shape
  assert q.ndim == x.ndim
  assert q.bits == row.quantizer.bits
  if not row.coded:
    # An offset keeps the codes from products, and for packers.
    assert q.codes is None or q.offset is not None
    assert q.codes is not None or q.scale is None
  if q.codes is None:
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
  offset = 0.0 if q.offset is None else np.asarray(q.offset)
  np.testing.assert_allclose(
    np.asarray(q.value, np.float32),
    codes * scale + offset,
    rtol=1e-6 if dtype == jnp.float32 else 2.0**-8,
    atol=0 if q.offset is None else 1e-2 * float(abs(offset).max()),
  )


@every_row
def test_levels_of_a_channel_fit_its_bits(row):
  if row.formula is formulas.floats:
    pytest.skip("not active: floats pass")
  if row.levels == 0:
    pytest.skip("its levels cannot be counted: see the row")
  _, (q, *_) = _run(row, 3 * formulas.tensor())
  value = np.asarray(q.value)
  kept = [axis % value.ndim for axis in row.kept]
  order = kept + [a for a in range(value.ndim) if a not in kept]
  rows = value.transpose(order).reshape(
    int(np.prod([value.shape[a] for a in kept])), -1
  )
  for entries in rows:
    count = 2**q.bits if row.levels is None else row.levels
    assert len(np.unique(np.float32(entries))) <= count


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
  variables = row.values(x)
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
    q = _quantize(row, x, row.values(formulas.tensor()))
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
    _, (q, dx, _) = _run(row, x.astype(np.float32))
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
    _, (q, dx, _) = _run(row, x)
    assert np.isfinite(q.value).all()
    assert np.isfinite(dx).all()
    if row.coded and q.codes is not None:
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
  one = row.values(x[0])

  def pair(x, g):
    q, dx, _ = _pair(row, x, g, one)
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
      scale = float(abs(np.asarray(want)).max())
      np.testing.assert_allclose(
        mine, want, rtol=5 * row.rtol, atol=5 * row.rtol * max(scale, 1.0)
      )


@every_quantizer
def test_sharded_over_eight_devices(row):
  """A scale is that of the whole tensor, not of a device's part."""
  mesh = jax.make_mesh((8,), ("d",), (jax.sharding.AxisType.Auto,))
  x, g = formulas.tensor(), _upstream()
  spec = NamedSharding(mesh, PartitionSpec("d"))
  put = [jax.device_put(a, spec) for a in (x, g)]
  got = _jitted(row)(*put, row.values(x))
  assert got[0].value.sharding.is_equivalent_to(spec, 3)
  _check(row, x, g, got)


@every_row
def test_compares_hashes_and_prints_as_its_arguments(row):
  q = row.quantizer
  same = dataclasses.replace(q)
  assert q == same
  assert hash(q) == hash(same)
  assert type(q).__name__ in repr(q)


@every_row
def test_initial_values_do_not_depend_on_the_tensor_s_shape_alone(row):
  """Without a tensor they have the shapes that an activation's would."""
  q = row.quantizer
  key = jax.random.key(1) if q.seeded else None
  x = formulas.tensor()
  for values in (q.parameters(SHAPE[-1], x, key), q.statistics(SHAPE[-1], x)):
    for name, value in values.items():
      assert np.isfinite(value).all(), name
      assert value.dtype == jnp.float32, name
  if q.calibrates and not q.seeded:
    assert q.parameters(SHAPE[-1], x).keys() == q.parameters(SHAPE[-1]).keys()
