"""What every quantizer promises; a new one adds its rows under `rows/`."""

import dataclasses

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
from tests.quantizers import contract, formulas
from tests.quantizers.contract import every_dtype, every_row
from tests.quantizers.formulas import SHAPE
from tests.quantizers.rows import ROWS


def test_every_quantizer_has_a_row():
  assert set(quantizers.REGISTRY) == set(ROWS)


@every_row
def test_value_and_gradient_are_the_formulas(row):
  (x, g), (q, *gradients) = contract.run(row, formulas.tensor())
  contract.check(row, x, g, (q.value, *gradients))


@every_row
def test_dtype_is_kept(row):
  """bfloat16 in, bfloat16 out: the levels of the input read as float32."""
  (x, g), (q, dx, dlearned) = contract.run(row, formulas.tensor(), jnp.bfloat16)
  assert q.value.dtype == dx.dtype == q.dtype == jnp.bfloat16
  assert q.scale is None or q.scale.dtype == jnp.float32
  contract.check(row, x, g, (q.value, dx, dlearned), jnp.bfloat16)


@every_row
@every_dtype
def test_value_is_codes_times_scale(row, dtype):
  (x, _), (q, *_) = contract.run(row, formulas.tensor(), dtype)
  assert q.shape == x.shape
  assert q.ndim == x.ndim
  assert q.bits == row.quantizer.bits
  if not row.coded:
    # An offset keeps the codes from products, and for packers.
    assert q.codes is None or q.offset is not None
    assert q.codes is not None or q.scale is None
  if q.codes is None:
    return
  codes = contract.check_codes(q)
  low, high = q.levels
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
  if contract.passes(row):
    pytest.skip("not active: floats pass")
  if row.levels == 0:
    pytest.skip("its levels cannot be counted: see the row")
  _, (q, *_) = contract.run(row, 3 * formulas.tensor())
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
      lambda x, output=output: getattr(
        contract.quantize(row, x, variables), output
      ),
      x,
    )
    assert set(said) == {bits.BitsTag(row.quantizer.bits)}, output


@every_row
def test_codes_and_scale_carry_no_gradient(row):
  x = formulas.tensor()

  def total(x):
    q = contract.quantize(row, x, row.values(formulas.tensor()))
    parts = [p for p in (q.codes, q.scale) if p is not None]
    return sum((p.astype(jnp.float32).sum() for p in parts), jnp.float32(0))

  np.testing.assert_array_equal(jax.jit(jax.grad(total))(x), 0)


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
    _, (q, dx, _) = contract.run(row, x)
    assert np.isfinite(q.value).all()
    assert np.isfinite(dx).all()
    if row.coded and q.codes is not None:
      codes = contract.check_codes(q)
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
    np.stack([contract.upstream()] * 2),
  )
  one = row.values(x[0])

  def pair(x, g):
    q, dx, _ = contract.pair(row, x, g, one, contract.at(row))
    return q.value, dx

  def remat(x, g):
    run = jax.checkpoint(lambda x: contract.quantize(row, x, one).value)
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


@contract.quantizers_that()
def test_sharded_over_eight_devices(row):
  """A scale is that of the whole tensor, not of a device's part."""
  mesh = jax.make_mesh((8,), ("d",), (jax.sharding.AxisType.Auto,))
  x, g = formulas.tensor(), contract.upstream()
  spec = NamedSharding(mesh, PartitionSpec("d"))
  put = [jax.device_put(a, spec) for a in (x, g)]
  run = contract.jitted(row)
  q, *gradients = run(*put, row.values(x), contract.at(row))
  assert q.value.sharding.is_equivalent_to(spec, 3)
  contract.check(row, x, g, (q.value, *gradients))


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
