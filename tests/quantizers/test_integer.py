"""Integers: groups, extremes, products and cost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jbin import cost, errors, nn, quantizers

MAKERS = {
  "absmax": quantizers.absmax,
  "half_step": lambda *args: quantizers.absmax(*args, half_step=True),
  "minmax": quantizers.minmax,
}
every = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def kernel(shape=(12, 6)):
  return jax.random.normal(jax.random.key(0), shape)


@every
@pytest.mark.parametrize("shape", [(12, 6), (3, 2, 12, 6)], ids=str)
def test_a_group_is_quantized_as_a_tensor_of_its_own(make, shape):
  """Each output channel of each group, over all other axes."""
  x, group = kernel(shape), 4
  got = make(4, (-1,), group)(x)
  assert got.codes.shape == got.value.shape == shape
  for start in range(0, shape[-2], group):
    rows = slice(start, start + group)
    want = make(4, (-1,))(x[..., rows, :])
    np.testing.assert_array_equal(got.value[..., rows, :], want.value)
    np.testing.assert_array_equal(got.codes[..., rows, :], want.codes)
    here = np.broadcast_to(got.scale, shape)[..., rows, :]
    np.testing.assert_array_equal(here, np.broadcast_to(want.scale, here.shape))


@every
def test_groups_that_do_not_fit_are_refused(make):
  with pytest.raises(errors.UserError, match="have a multiple of the group"):
    make(4, (-1,), 5)(kernel())
  with pytest.raises(errors.UserError, match="not be one of the axes"):
    make(4, (-2,), 4)(kernel())
  with pytest.raises(errors.UserError, match="that axis must exist"):
    make(4, (-1,), 4)(kernel((12,)))
  for group in (0, -1, 2.0):
    with pytest.raises(errors.UserError, match="positive integer or None"):
      make(4, (-1,), group)


@every
def test_extremes_stay_finite(make):
  """Zeros, subnormals, the largest floats, infinities."""
  most = np.finfo(np.float32).max
  for row in (
    [0.0, -0.0, 0.0, 0.0],
    [1e-40, -1e-42, 0.0, 1e-45],
    [1e-30, -1e-30, 0.0, 2e-30],
    [most, -most, 0.0, 1.0],
    [np.inf, -np.inf, 0.0, 1.0],
    [np.inf, 5.0, 0.0, 2.0],
  ):
    x = jnp.asarray([row], jnp.float32)
    for q in (make(8, ()), make(2, ())):
      y, pull = jax.vjp(lambda x, q=q: q(x).value, x)
      assert np.isfinite(y).all(), row
      np.testing.assert_array_equal(pull(x)[0], x)
      assert y[0, 0] >= 0 >= y[0, 1] or row[1] > 0
      assert y[0, 2] == 0


def test_zero_is_exact_and_bounds_hold_it():
  """Of a row far from zero too, whose range then begins at zero."""
  x = jnp.asarray([[5.0, 6.0, 7.0], [-3.0, -1.0, -2.0], [-1.0, 0.0, 3.0]])
  got = quantizers.minmax(8, (0,))(x)
  want = np.array([[7.0], [3.0], [4.0]]) / 255
  np.testing.assert_allclose(got.scale, want, rtol=1e-6)
  assert float(abs(got.value - x).max()) < float(want.max())
  np.testing.assert_array_equal(got.value[2, 1], 0)
  spans = np.asarray(got.codes.astype(jnp.float32))
  assert (np.ptp(np.c_[spans, np.zeros(3)], axis=1) <= 255).all()
  assert got.levels == (-255, 255)


def layer(kernel_quantizer):
  return nn.Linear(
    12,
    6,
    use_bias=False,
    input_quantizer=quantizers.absmax(8, ()),
    kernel_quantizer=kernel_quantizer,
    rngs=nnx.Rngs(0),
  )


@every
@pytest.mark.parametrize("group", [None, 4])
def test_a_product_is_that_of_the_values(make, group):
  linear, x = layer(make(4, (-1,), group)), kernel((5, 12))
  w = linear.kernel_quantizer(linear.kernel[...]).value
  want = linear.input_quantizer(x).value @ w
  np.testing.assert_allclose(linear(x), want, rtol=1e-5, atol=1e-5)


@every
def test_cost_sees_the_width_and_the_groups(make):
  """A step for each group cannot be taken out of the sum: flagged."""
  for group in (None, 4):
    report = cost.count(layer(make(4, (-1,), group)), kernel((1, 12)))
    (record,) = report.layers
    assert record.rhs_bits == 4
    assert record.rhs.runs == (1 if group is None else 12 // group)
    grouped = () if group is None else ("scale_by_groups",)
    assert record.flags == grouped
    assert report.ace == 12 * 6 * 8 * 4
