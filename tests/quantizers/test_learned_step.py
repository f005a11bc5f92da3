"""LSQ, BiT and FBI-Linear: where they start, and what they refuse."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jbin import errors, nn, quantizers

NORMAL = math.sqrt(2 / math.pi)  # mean |x| of a standard normal


def test_without_a_tensor_a_standard_normal_one_is_assumed():
  for quantizer, name, times in (
    (quantizers.lsq(4), "step", 2 / math.sqrt(7)),
    (quantizers.lsq(1), "step", 2.0),
    (quantizers.lsq(1, signed=False), "step", 2.0),
    (quantizers.bit_activation(), "alpha", 2.0),
    (quantizers.bit_activation(signed=False), "alpha", 4.0),
    (quantizers.bivit_weight(), "alpha", 1.0),
    (quantizers.fbi_weight("row"), "alpha", 1.0),
  ):
    value = quantizer.parameters(6)[name]
    np.testing.assert_allclose(value, times * NORMAL, rtol=1e-6)
  assert quantizers.lsq(4, per_channel=True).parameters(6)["step"].shape == (6,)


def test_calibrate_takes_the_scale_from_a_batch():
  layer = nn.Linear(
    4,
    3,
    input_quantizer=quantizers.bit_activation(signed=False, shift=True),
    kernel_quantizer=quantizers.lsq(4, per_channel=True),
    rngs=nnx.Rngs(0),
  )
  x = jax.random.uniform(jax.random.key(1), (5, 4))
  nn.calibrate(layer, x)
  learned = layer.input_quantizer.learned
  np.testing.assert_allclose(learned["alpha"][...], 4 * x.mean(), rtol=1e-6)
  np.testing.assert_array_equal(learned["shift"][...], jnp.zeros(4))
  start = layer.kernel_quantizer.learned["step"][...]
  want = 2 * abs(layer.kernel[...]).mean(0) / math.sqrt(7)
  np.testing.assert_allclose(start, want, rtol=1e-6)


@pytest.mark.parametrize(
  ("quantizer", "name"),
  [
    (quantizers.lsq(4), "step"),
    (quantizers.lsq(1), "step"),
    (quantizers.bit_activation(), "alpha"),
    (quantizers.bit_activation(2, signed=False), "alpha"),
  ],
  ids=repr,
)
@pytest.mark.parametrize("step", [0.0, -1.0, 1e-30, 1e30])
def test_any_step_and_any_input_give_finite_gradients(quantizer, name, step):
  """A step that is not positive is used as the least one, and still learns."""
  x = jnp.asarray([[0.0, -0.0, 1e-40, 1e-5], [1.0, -1.0, 1e18, -1e18]])

  def value(x, step):
    return quantizer(x, **{name: step}).value

  y, pull = jax.vjp(value, x, jnp.float32(step))
  dx, dstep = pull(jnp.ones_like(x))
  assert np.isfinite(y).all()
  assert np.isfinite(dx).all()
  assert np.isfinite(dstep)
  _, pull = jax.vjp(value, jnp.abs(x), jnp.float32(step))
  if step < 1:
    assert pull(jnp.ones_like(x))[1] > 0


def test_infinities_are_clipped():
  x = jnp.asarray([[np.inf, -np.inf, 1.0]])
  y, pull = jax.vjp(
    lambda x, s: quantizers.lsq(4)(x, step=s).value, x, jnp.float32(0.5)
  )
  np.testing.assert_array_equal(y, [[3.5, -4.0, 1.0]])
  dx, dstep = pull(jnp.ones_like(x))
  np.testing.assert_array_equal(dx, [[0, 0, 1]])
  np.testing.assert_allclose(dstep, (7 - 8) / math.sqrt(3 * 7), rtol=1e-6)


@pytest.mark.parametrize(
  "quantizer",
  [
    quantizers.bitnet158_weight(),
    quantizers.bitnet_activation(),
    quantizers.bitnet_activation(full=True, per_token=False),
  ],
  ids=repr,
)
def test_bitnet_s_extremes_are_finite(quantizer):
  most = np.finfo(np.float32).max
  for row in ([np.inf, -np.inf, 0.0], [most, 1.0, -most], [1e-40, 0.0, 1e-45]):
    y, pull = jax.vjp(lambda x: quantizer(x).value, jnp.asarray([row]))
    assert np.isfinite(y).all(), row
    np.testing.assert_array_equal(pull(y)[0], y)


def test_lsq_per_channel_is_lsq_of_each_channel_but_for_the_count():
  x = jax.random.normal(jax.random.key(0), (6, 3))
  whole = quantizers.lsq(3, per_channel=True, count="none")
  one = quantizers.lsq(3, count="none")
  step = jnp.asarray([0.2, 0.5, 1.0])

  def pair(q, x, step):
    run = lambda x, step: q(x, step=step).value
    y, pull = jax.vjp(run, x, step)
    return y, *pull(x)

  y, dx, dstep = pair(whole, x, step)
  for i in range(3):
    want = pair(one, x[:, i : i + 1], step[i])
    for got, value in zip((y[:, i], dx[:, i]), want[:2], strict=True):
      np.testing.assert_allclose(got, value[:, 0], rtol=1e-6)
    np.testing.assert_allclose(dstep[i], want[2], rtol=1e-5)


def test_fbi_starts_from_what_shares_its_scale():
  w = jax.random.normal(jax.random.key(2), (3, 3, 5, 4))
  shapes = {"column": (5,), "row": (4,), "single": ()}
  for pattern, shape in shapes.items():
    start = quantizers.fbi_weight(pattern).parameters(4, w)
    assert {v.shape for v in start.values()} == {shape}
  # Without a kernel the input features are not known.
  lost = quantizers.fbi_weight().parameters(4)
  with pytest.raises(errors.UserError, match=r"needs \(5,\)"):
    quantizers.fbi_weight()(w, **lost)
  with pytest.raises(errors.UserError, match="not all axes"):
    quantizers.fbi_weight()(w[0, 0, 0], **lost)


@pytest.mark.parametrize(
  ("make", "text"),
  [
    (lambda: quantizers.lsq(4, count="channel"), "count"),
    (lambda: quantizers.fbi_weight("columns"), "column"),
    (lambda: quantizers.lsq(9), "from 1 to 8, got 9"),
    (lambda: quantizers.bitnet_activation(1), "from 2 to 8, got 1"),
  ],
)
def test_bad_arguments_are_user_errors(make, text):
  with pytest.raises(errors.UserError, match=text):
    make()
