"""What the rows do not show of ReCU's and FDA-BNN's quantizers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jbin import errors, nn, quantizers, schedules

KERNEL = np.random.default_rng(0).normal(size=(3, 3, 64, 5)).astype(np.float32)


def test_recu_s_evaluation_computes_no_variance():
  quantizer = quantizers.recu_activation()
  x = jnp.asarray(KERNEL)
  forward = jax.jit(lambda x: quantizer(x).value).lower(x).compile().as_text()
  assert "rsqrt" not in forward
  step = jax.jit(jax.grad(lambda x: (quantizer(x).value * x).sum()))
  assert "rsqrt" in step.lower(x).compile().as_text()


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_recu_s_signs_are_those_of_the_input(size):
  """Also where the square of the input is no float32."""
  x = (KERNEL * np.float32(size)).astype(np.float32)
  x[0, 0, 0] = 1e-20
  got = quantizers.recu_activation()(jnp.asarray(x))
  np.testing.assert_array_equal(got.codes, np.where(x >= 0, 1, -1))


def test_recu_does_not_clamp_at_the_last_quantile():
  """All weights equal, no clamp: 0 times infinity in the paper's formula."""
  for value in (0.0, 3.0):
    x = jnp.full((3, 4), value)
    quantizer = quantizers.recu_weight(1.0, learned_scale=False)
    y, pull = jax.vjp(lambda x, q=quantizer: q(x).value, x)
    np.testing.assert_array_equal(y, 1)
    assert np.isfinite(pull(jnp.ones_like(y))[0]).all()


def test_recu_s_scale_is_drawn():
  first, second = (
    quantizers.recu_weight().parameters(64, key=jax.random.key(seed))["scale"]
    for seed in (0, 1)
  )
  assert ((first >= 0) & (first < 1)).all()
  assert (first != second).any()
  assert not quantizers.recu_weight(learned_scale=False).parameters(64)


def test_fda_s_noise_nets():
  layer = nn.Conv(
    64,
    5,
    (3, 3),
    input_quantizer=quantizers.fda_activation(),
    kernel_quantizer=quantizers.fda_weight(),
    rngs=nnx.Rngs(0),
  )
  for quantizer, width in (
    (layer.input_quantizer, 64),
    (layer.kernel_quantizer, 576),
  ):
    fc1, fc2 = (quantizer.learned[name][...] for name in ("fc1", "fc2"))
    assert fc1.shape == (width, width // 64)
    assert fc2.shape == (width // 64, width)
    for net in (fc1, fc2):
      limit = 1 / np.sqrt(net.shape[0])
      assert 0.9 * limit < abs(net).max() <= limit


def test_fda_without_noise_learns_nothing():
  layer = nn.Linear(
    8,
    5,
    input_quantizer=quantizers.fda_activation(alpha=0.0),
    kernel_quantizer=quantizers.fda_weight(alpha=0),
    rngs=nnx.Rngs(0),
  )
  assert not layer.input_quantizer.learned
  assert not layer.kernel_quantizer.learned
  assert not layer.kernel_quantizer.spec.seeded


def test_fda_s_noise_is_gone_at_the_end():
  quantizer = quantizers.fda_weight()
  learned = quantizer.parameters(5, KERNEL, jax.random.key(0))
  quiet = quantizers.fda_weight(alpha=0)(jnp.asarray(KERNEL), progress=1.0)
  distance = [
    abs(
      quantizer(jnp.asarray(KERNEL), progress=p, **learned).value - quiet.value
    )
    for p in (0.0, 0.5, 1.0)
  ]
  assert distance[0].max() > distance[1].max() > distance[2].max()
  assert (distance[2] == 0).all()


@pytest.mark.parametrize(
  ("call", "text"),
  [
    (lambda: quantizers.recu_weight().parameters(3), "give parameters"),
    (lambda: quantizers.fda_activation().parameters(3), "give parameters"),
    (lambda: quantizers.fda_weight().parameters(3), "size of its noise net"),
    (lambda: nn.Quantizer(quantizers.recu_weight(), 3), "give rngs"),
    (
      lambda: quantizers.fda_weight(alpha=0)(jnp.ones((3, 3))),
      "needs a progress",
    ),
    (lambda: quantizers.sign(edge="half")(jnp.ones(3)), "unknown edge"),
  ],
)
def test_bad_arguments_are_user_errors(call, text):
  with pytest.raises(errors.UserError, match=text):
    call()


def test_fda_s_schedules_are_those_of_the_paper():
  default = quantizers.fda_activation()
  assert default.n == schedules.staircase(9, 18)
  assert default.alpha == schedules.cosine(0.1)
