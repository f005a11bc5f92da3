"""OneBit's norm between a layer's product and its bias."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jbin import cost, errors, nn, quantizers
from tests.nn import layers

SIGNS = {"kernel_quantizer": quantizers.onebit_weight()}


def _pair(slots, dtype=None):
  """A layer with a norm and a bias, and the same with neither."""
  normed, bare = (
    nn.Linear(5, 4, dtype=dtype, rngs=nnx.Rngs(0), **slots, **options)
    for options in ({"output_scale": nn.OutputNorm()}, {"use_bias": False})
  )
  normed.bias[...] = jnp.arange(4.0)
  return normed, bare


@pytest.mark.parametrize("slots", [SIGNS, {}], ids=["bits", "floats"])
def test_it_is_flax_s_norm_of_the_product_before_the_bias(slots):
  layer, bare = _pair(slots)
  norm = nnx.LayerNorm(
    4,
    epsilon=1e-5,
    use_bias=False,
    use_scale=False,
    use_fast_variance=False,
    rngs=nnx.Rngs(0),
  )

  @jax.jit
  def both(x):
    pairs = [
      jax.vjp(f, x)
      for f in (layer, lambda x: norm(bare(x)) + layer.bias[...][None, None])
    ]
    return [(y, pull(jnp.cos(y))[0]) for y, pull in pairs]

  layers.close(*both(jax.random.normal(jax.random.key(1), (2, 3, 5))), 1e-5)
  x = jax.random.normal(jax.random.key(1), (5,))
  np.testing.assert_allclose(layer(x), layer(x[None])[0], rtol=1e-6)
  assert set(layers.state_of(layer)) - set(layers.state_of(bare)) == {("bias",)}


def test_narrow_results_are_normed_in_float32():
  layer, bare = _pair(SIGNS, jnp.bfloat16)
  x = jax.random.normal(jax.random.key(1), (3, 5), jnp.bfloat16)
  y = bare(x).astype(jnp.float32)
  y -= y.mean(-1, keepdims=True)
  want = y / jnp.sqrt(jnp.square(y).mean(-1, keepdims=True) + 1e-5)
  got = layer(x)
  assert got.dtype == jnp.bfloat16
  want = want.astype(jnp.bfloat16) + jnp.arange(4, dtype=jnp.bfloat16)[None]
  np.testing.assert_array_equal(got, want)


def test_equal_entries_are_zero():
  y, pull = jax.vjp(nn.OutputNorm(), jnp.full((2, 4), 3.0))
  np.testing.assert_array_equal(y, 0)
  assert np.isfinite(pull(jnp.ones_like(y))[0]).all()


def test_a_convolution_may_have_one():
  """Each position's channels."""
  layer = nn.Conv(
    2, 4, (1, 1), use_bias=False, output_scale=nn.OutputNorm(), rngs=nnx.Rngs(0)
  )
  y = layer(jax.random.normal(jax.random.key(1), (1, 3, 3, 2)))
  np.testing.assert_allclose(y.mean(-1), 0, atol=1e-6)
  np.testing.assert_allclose(jnp.square(y).mean(-1), 1, rtol=1e-3)


def test_the_cost_report_counts_it_as_other_norms():
  layer, bare = _pair(SIGNS)
  x = jax.ShapeDtypeStruct((3, 5), jnp.float32)
  report = cost.count(layer, x)
  assert report.macs == cost.count(bare, x).macs == {(32, 1): 3 * 5 * 4}
  assert report.elementwise == {"layer_norm": 12}
  assert not report.flagged


def test_flax_s_own_arithmetic_is_refused_beside_it():
  with pytest.raises(errors.UserError, match="dot_general has no meaning"):
    nn.Linear(
      3,
      3,
      output_scale=nn.OutputNorm(),
      dot_general=jax.lax.dot_general,
      rngs=nnx.Rngs(0),
    )
