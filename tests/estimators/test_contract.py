"""What every estimator promises; a new one adds its rows to `rows.ROWS`.

A row is an estimator with its options, and its value and gradient in plain
numpy, of the same dtype, so that edges and ties are compared exactly.
"""

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

from jbin import errors, estimators
from tests import extremes, programs
from tests.estimators.rows import ROWS, Array, sign

MEMBERS = [
  pytest.param(row, id=f"{name}-{i}")
  for name, rows in ROWS.items()
  for i, row in enumerate(rows)
]
every_row = pytest.mark.parametrize("row", MEMBERS)
# One for each estimator, where options do not matter.
every_estimator = pytest.mark.parametrize(
  "row", [rows[0] for rows in ROWS.values()], ids=ROWS
)
DTYPES = (jnp.float32, jnp.bfloat16)
SHAPE = (8, 24)


def test_every_estimator_has_a_row():
  assert set(estimators.REGISTRY) == set(ROWS)


def _points(row) -> Array:
  """Edges, their neighbours, zeros, extremes and a grid, in `SHAPE`."""
  edges = np.array([*row.edges, *(-e for e in row.edges)], np.float32)
  near = [np.nextafter(edges, s * np.float32(np.inf)) for s in (-1, 1)]
  # The neighbour of 0 is subnormal, which XLA on CPU takes for zero.
  near = [np.where(abs(n) < 1e-30, 0.25, n).astype(np.float32) for n in near]
  special = np.array(
    [0.0, -0.0, np.inf, -np.inf, 3e38, -3e38, 1e-30, -1e-30], np.float32
  )
  points = np.concatenate([edges, *near, special])
  count = np.prod(SHAPE)
  grid = np.linspace(-4, 4, count - points.size, dtype=np.float32)
  return np.concatenate([points, grid]).reshape(SHAPE)


def _pair(row, x, g):
  """The value at `x`, and the pull-back of `g`."""
  y, pull = jax.vjp(row.function, x)
  return y, pull(g)[0]


@functools.cache
def _jitted(row):
  """One trace and one program for each dtype, whatever asks."""
  return jax.jit(functools.partial(_pair, row))


def _check(row, x, g, y, dx, dtype=jnp.float32):
  wide, upstream = np.asarray(x, np.float32), np.asarray(g, np.float32)
  value = row.value(wide)
  at = row.value_rtol if dtype == jnp.float32 else 2**-7 * bool(row.value_rtol)
  np.testing.assert_allclose(np.asarray(y, np.float32), value, rtol=at, atol=at)
  with np.errstate(over="ignore"):
    want = upstream * row.factor(wide)
  tolerance = row.rtol if dtype == jnp.float32 else 2**-7
  np.testing.assert_allclose(
    np.asarray(dx, np.float32), want, rtol=tolerance, atol=row.atol
  )


def _upstream(dtype):
  g = np.linspace(-2, 3, np.prod(SHAPE)).reshape(SHAPE)
  return jnp.asarray(g, dtype)


@every_row
@pytest.mark.parametrize("dtype", DTYPES, ids=("float32", "bfloat16"))
def test_value_and_gradient_are_the_formulas(row, dtype):
  x, g = jnp.asarray(_points(row), dtype), _upstream(dtype)
  y, dx = _jitted(row)(x, g)
  assert y.dtype == dx.dtype == dtype
  assert y.shape == dx.shape == SHAPE
  _check(row, x, g, y, dx, dtype)


@every_row
def test_random_values(row):
  elements = st.floats(-9, 9, width=32, allow_subnormal=False)

  @hypothesis.settings(deadline=None, max_examples=25, database=None)
  @hypothesis.given(
    arrays.arrays(np.float32, SHAPE, elements=elements),
    arrays.arrays(np.float32, SHAPE, elements=elements),
  )
  def holds(x, g):
    _check(row, x, g, *_jitted(row)(x, g))

  holds()


@every_row
def test_at_zero(row):
  for zero in (0.0, -0.0):
    y, _ = _jitted(row)(np.full(SHAPE, zero, np.float32), _upstream("f4"))
    np.testing.assert_array_equal(y, row.zero)


@every_row
@pytest.mark.parametrize("dtype", DTYPES, ids=("float32", "bfloat16"))
def test_nothing_makes_a_nan(row, dtype):
  for x in extremes.tensors(_points(row)):
    y, dx = _jitted(row)(jnp.asarray(x, dtype), _upstream(dtype))
    assert np.isfinite(y).all()
    assert np.isfinite(dx).all()


@every_row
def test_transformations_change_nothing(row):
  """jit, vmap along either axis, grad, scan and remat, in one program."""
  x, g = _points(row), np.asarray(_upstream(jnp.float32))
  pair = functools.partial(_pair, row)
  loss = lambda x: (row.function(x) * g).sum()

  def scanned(x):
    return lax.scan(lambda c, x: (c, row.function(x)), None, x)[1]

  @jax.jit
  def run(x, g):
    return {
      "vmap": jax.vmap(pair)(x, g),
      "vmap 1": jax.vmap(pair, in_axes=1, out_axes=1)(x, g),
      "vmap 2": jax.vmap(jax.vmap(pair))(x, g),
      "grad": (row.function(x), jax.grad(loss)(x)),
      "remat grad": (row.function(x), jax.grad(jax.checkpoint(loss))(x)),
      "scan": lax.scan(lambda c, a: (c, pair(*a)), None, (x, g))[1],
      "grad of scan": (
        scanned(x),
        jax.grad(lambda x: (scanned(x) * g).sum())(x),
      ),
    }

  eager = _pair(row, x, g)
  for name, got in run(x, g).items():
    np.testing.assert_array_equal(got[0], eager[0], err_msg=name)
    near = row.fused * float(abs(eager[1]).max())
    np.testing.assert_allclose(got[1], eager[1], 0, near, err_msg=name)


@every_estimator
def test_sharded_over_eight_devices(row):
  mesh = jax.make_mesh((8,), ("d",), (jax.sharding.AxisType.Auto,))
  x, g = _points(row), np.asarray(_upstream(jnp.float32))
  for spec in (PartitionSpec("d"), PartitionSpec(None, "d")):
    sharding = NamedSharding(mesh, spec)
    put = [jax.device_put(a, sharding) for a in (x, g)]
    y, dx = _jitted(row)(*put)
    assert y.sharding.is_equivalent_to(sharding, 2)
    assert dx.sharding.is_equivalent_to(sharding, 2)
    _check(row, x, g, y, dx)


@every_row
def test_second_derivative(row):
  x = np.linspace(-9.3, 9.7, np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)

  @jax.jit
  def second(x):
    first = jax.grad(lambda x: row.function(x).sum())
    return jax.grad(lambda x: first(x).sum())(x)

  want = row.second(x)
  np.testing.assert_allclose(
    second(x), want, rtol=20 * row.rtol, atol=20 * row.rtol * abs(want).max()
  )


@every_estimator
@pytest.mark.parametrize(
  "shape",
  [(), (0,), (1,), (7,), (8,), (9,), (2, 0), (0, 8), (3, 1, 17), (5, 16)],
  ids=str,
)
def test_shapes(row, shape):
  """Windows are kept as bits: bytes that are full, ragged, or not worth it."""
  count = int(np.prod(shape))
  x = np.linspace(-2, 2, count, dtype=np.float32).reshape(shape) + 0.1
  g = np.linspace(1, 3, count, dtype=np.float32).reshape(shape)
  y, dx = _jitted(row)(np.asarray(x), np.asarray(g))
  assert y.shape == dx.shape == shape
  _check(row, x, g, y, dx)


@every_estimator
def test_the_residual_is_small(row):
  """No float is kept, save by an estimator whose factor is not 0 or 1."""
  x = jnp.asarray(_points(row))
  _, pull = jax.vjp(row.function, x)
  kept = sum(leaf.nbytes for leaf in jax.tree.leaves(pull))
  if row.keeps == "x":
    assert kept <= x.nbytes + 16  # and scalars
  else:
    assert kept <= x.size // 8 + 8


@every_estimator
def test_gradient_survives_export(row):
  x = _points(row)
  y, pull = jax.vjp(programs.exported(row.function, x), x)
  g = np.asarray(_upstream(jnp.float32))
  _check(row, x, g, y, pull(g)[0])


@pytest.mark.parametrize("clip_shape", [(1, 1), (8, 1), (1, 24), SHAPE])
def test_ste_sign_with_an_array_of_windows(clip_shape):
  clip = np.linspace(0.5, 2, np.prod(clip_shape), dtype=np.float32)
  clip = clip.reshape(clip_shape)
  x, g = _points(ROWS["ste_sign"][0]), np.asarray(_upstream(jnp.float32))
  x = np.where(np.arange(SHAPE[1]) % 2, np.broadcast_to(clip, SHAPE), x)
  for edge, inside in (("closed", np.less_equal), ("open", np.less)):
    y, pull = jax.vjp(
      functools.partial(estimators.ste_sign, edge=edge), x, clip
    )
    dx, dclip = pull(g)
    np.testing.assert_array_equal(y, sign(1.0)(x))
    np.testing.assert_array_equal(dx, np.where(inside(abs(x), clip), g, 0))
    np.testing.assert_array_equal(dclip, np.zeros_like(clip))


@pytest.mark.parametrize(
  ("function", "settings"),
  [(estimators.fda_sign, [(9, 0.1), (18, 0.1), (18, 0.3)])],
)
def test_a_schedule_s_values_compile_nothing(function, settings):
  """They are traced, and get no gradient."""
  x, g = _points(ROWS["ste_sign"][0]), np.asarray(_upstream(jnp.float32))

  @programs.Jit
  def run(x, *options):
    return jax.vjp(function, x, *options)[1](g)

  seen = []
  for options in settings:
    dx, *others = run(x, *map(np.float32, options))
    seen.append(np.asarray(dx))
    assert all(other == 0 for other in others)
  assert run.traces == 1
  for i, dx in enumerate(seen[1:]):
    assert (dx != seen[i]).any()


def test_a_nan_is_a_bit_without_gradient():
  y, dx = _pair(ROWS["ste_sign"][0], jnp.full(3, jnp.nan), jnp.ones(3))
  np.testing.assert_array_equal(y, -1)
  np.testing.assert_array_equal(dx, 0)


@pytest.mark.parametrize(
  ("call", "text"),
  [
    (lambda x: estimators.clipped_round(x, 1, 1), "low 1 is not below 1"),
    (
      lambda x: estimators.clipped_round(x, 0, 1, rounding="evn"),
      "unknown rounding 'evn'; did you mean even",
    ),
    (
      lambda x: estimators.clipped_round(x, 0, 1, edge="hlf"),
      "unknown edge 'hlf'; did you mean half",
    ),
    (
      lambda x: estimators.ste_sign(x, edge="half"),
      "unknown edge 'half'",
    ),
  ],
)
def test_bad_options_are_user_errors(call, text):
  with pytest.raises(errors.UserError, match=text):
    call(jnp.ones(3))
