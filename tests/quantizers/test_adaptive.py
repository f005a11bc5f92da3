"""SiMaN, AdaBin and LAB beside the contract."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jbin import cost, errors, nn, quantizers
from tests import programs


def _kernel(shape=(3, 3, 8, 4)):
  w = np.random.default_rng(4).normal(size=shape).astype(np.float32)
  return w + np.linspace(-1, 1, shape[-1], dtype=np.float32)


def _shrunk(w, percent):
  u = w - w.mean((0, 1, 2), keepdims=True, dtype=np.float64)
  low, high = np.percentile(abs(u), [percent, 100 - percent])
  return np.sign(u) * np.clip(abs(u), low, high)


def test_shrink_latents_follows_a_traced_percent():
  w = _kernel()
  run = programs.Jit(functools.partial(quantizers.shrink_latents, w))
  for percent in (0.0, 3.3, 7.5, 15.0, 50.0):
    got = run(np.float32(percent))
    np.testing.assert_allclose(got, _shrunk(w, percent), atol=1e-6)
  assert run.traces == 1


def test_shrink_latents_keeps_zeros_dtypes_and_what_is_shrunk():
  assert (quantizers.shrink_latents(jnp.zeros((4, 3)), 15.0) == 0).all()
  low = quantizers.shrink_latents(jnp.asarray(_kernel(), jnp.bfloat16), 10)
  assert low.dtype == jnp.bfloat16
  w = jnp.asarray(_kernel())
  centred = quantizers.shrink_latents(w, 0)
  np.testing.assert_allclose(
    quantizers.shrink_latents(centred, 0), centred, atol=1e-6
  )


@pytest.mark.parametrize("shape", [(3, 3, 8, 4), (3, 3, 3, 4), (7, 5), (1, 3)])
def test_siman_has_as_many_ones_as_the_half(shape):
  q = quantizers.siman_weight(learned_scale=False)(_kernel(shape))
  count = int(np.prod(shape[:-1]))
  ones = (np.asarray(q.value) > 0).reshape(count, -1).sum(0)
  np.testing.assert_array_equal(ones, max(count // 2, 1))


def test_siman_does_not_see_the_sign():
  w = _kernel()
  w -= w.mean((0, 1, 2), keepdims=True)
  spec = quantizers.siman_weight(learned_scale=False)
  np.testing.assert_array_equal(spec(w).value, spec(-w).value)


def test_adabin_s_forms_agree_at_the_start():
  x = jnp.asarray(_kernel())
  code, paper = (quantizers.adabin_activation(f) for f in ("code", "paper"))
  start = code.parameters(4)
  values = [q(x, **start).value for q in (code, paper)]
  np.testing.assert_array_equal(*values)
  moved = {"a": jnp.float32(0.5), "b": jnp.float32(0.25)}
  levels = [np.unique(q(x, **moved).value) for q in (code, paper)]
  np.testing.assert_array_equal(levels, [[-0.375, 0.625], [-0.25, 0.75]])


def test_lab_compares_its_own_channel_s_maps_on_paper():
  spec = quantizers.lab_activation("paper")
  x = jnp.asarray(_kernel((2, 5, 5, 4)))
  values = spec.parameters(4, key=jax.random.key(0))
  y = np.asarray(spec(x, **values).value)
  moved = x.at[..., 2].multiply(-1)
  changed = (np.asarray(spec(moved, **values).value) != y).any((0, 1, 2))
  np.testing.assert_array_equal(changed, [False, False, True, False])
  # The code's layout: map 4 and 5 are those of channel 2.
  code = quantizers.lab_activation()
  changed = (
    np.asarray(code(moved, **values).value)
    != np.asarray(code(x, **values).value)
  ).any((0, 1, 2))
  np.testing.assert_array_equal(changed, [True, True, False, False])


def test_lab_in_a_layer_is_counted_as_a_float_convolution():
  layer = nn.Conv(
    4,
    6,
    (3, 3),
    input_quantizer=quantizers.lab_activation(),
    kernel_quantizer=quantizers.sign(),
    use_bias=False,
    rngs=nnx.Rngs(0),
  )
  report = cost.count(layer, jax.ShapeDtypeStruct((1, 5, 5, 4), jnp.float32))
  assert report.macs[1, 1] == 25 * 9 * 4 * 6
  assert report.macs[32, 32] == 25 * 9 * 8


def test_bad_options_are_user_errors():
  with pytest.raises(errors.UserError, match="unknown form 'papr'"):
    quantizers.adabin_activation("papr")
  with pytest.raises(errors.UserError, match="unknown layout 'cod'"):
    quantizers.lab_activation("cod")
  spec = quantizers.lab_activation()
  with pytest.raises(errors.UserError, match="give spatial=1"):
    spec(jnp.ones((2, 5, 4)), **spec.parameters(4, key=jax.random.key(0)))
  with pytest.raises(errors.UserError, match="draws its initial values"):
    spec.parameters(4)
