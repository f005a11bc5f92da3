"""Factors of a convolution's output: XNOR-Net's map, XNOR-Net++'s rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jbin import cost, errors, nn, quantizers
from tests.nn import layers
from tests.nn.rows import BF16, CONV

SIGNS = {
  "input_quantizer": quantizers.sign(),
  "kernel_quantizer": quantizers.xnor(),
}


def _random(shape, seed=0):
  x = np.random.default_rng(seed).normal(size=shape)
  return jnp.asarray(x, jnp.float32)


def _scaled(arguments, options, slots, scale):
  """A layer with a scale and a bias, and the same without either."""
  layer = nn.Conv(
    *arguments, **options, **slots, output_scale=scale, rngs=nnx.Rngs(0)
  )
  bare = nn.Conv(
    *arguments, **{**options, "use_bias": False}, **slots, rngs=nnx.Rngs(0)
  )
  if layer.bias is not None:
    layer.bias[...] = _random(layer.bias.shape, 5)
  return layer, bare


def _plus_bias(y, layer):
  if layer.bias is None:
    return y
  return y + jnp.broadcast_to(layer.bias[...].astype(y.dtype), y.shape)


@pytest.mark.parametrize("slots", [SIGNS, {}], ids=["bits", "floats"])
@pytest.mark.parametrize("dtype", [None, BF16])
def test_spatial_scale(slots, dtype):
  """Multiplies the product, before the bias; learns both factors."""
  options = {"dtype": dtype, "padding": "VALID"}
  layer, bare = _scaled((4, 6, (3, 2)), options, slots, nn.SpatialScale(4, 3))
  x = _random((2, 6, 4, 4), 1)
  np.testing.assert_array_equal(layer(x), _plus_bias(bare(x), layer))
  kinds = {path: kind for path, (kind, _) in layers.state_of(layer).items()}
  for name, shape in (("height", (4,)), ("width", (3,))):
    assert kinds["output_scale", name] is nnx.Param
    part = getattr(layer.output_scale, name)
    assert part.shape == shape
    part[...] = _random(shape, len(name))
  height = layer.output_scale.height[...].reshape(4, 1, 1)
  width = layer.output_scale.width[...].reshape(1, 3, 1)
  product = bare(x)
  want = product.astype(jnp.float32) * (height * width)[None]
  np.testing.assert_array_equal(
    layer(x), _plus_bias(want.astype(product.dtype), layer)
  )
  y, gradients = layers.run(lambda layer, x: layer(x), layer, x)
  g = jnp.sin(jnp.arange(y.size)).reshape(y.shape)
  each = np.asarray(g * product.astype(jnp.float32))
  tolerance = 0.02 if dtype else 1e-4
  got = gradients[0]["output_scale"]
  for name, other, axes in (
    ("height", width, (0, 2, 3)),
    ("width", height, (0, 1, 3)),
  ):
    total = (each * np.asarray(other)[None]).sum(axes)
    np.testing.assert_allclose(
      got[name].ravel(), total, rtol=tolerance, atol=tolerance * 10
    )


def test_ones_change_nothing():
  """So a layer starts as it would without."""
  layer, bare = _scaled(
    (4, 6, (3, 3)), {"use_bias": False}, SIGNS, nn.SpatialScale(6, 5)
  )
  x = _random((2, 6, 5, 4))
  np.testing.assert_array_equal(layer(x), bare(x))


def _map(layer, x):
  """K by Flax's own convolution with a kernel of 1 / taps, group by group."""
  groups = layer.feature_group_count
  taps = int(np.prod(layer.kernel_size))
  box = nnx.Conv(
    1,
    1,
    layer.kernel_size,
    layer.strides,
    padding=layer.padding,
    input_dilation=layer.input_dilation,
    kernel_dilation=layer.kernel_dilation,
    use_bias=False,
    kernel_init=nnx.initializers.constant(1 / taps),
    rngs=nnx.Rngs(0),
  )
  parts = jnp.split(jnp.abs(x), groups, -1)
  maps = [box(part.mean(-1, keepdims=True)) for part in parts]
  return jnp.repeat(jnp.concatenate(maps, -1), layer.out_features // groups, -1)


MAPS = {row[0]: row[1:] for row in CONV if row[0] != "bfloat16"}


@pytest.mark.parametrize(
  ("title", "detached"),
  [("plain", True), ("groups", True), *((title, False) for title in MAPS)],
)
def test_xnor_map(title, detached):
  """Every padding, stride, dilation and grouping; and its gradient."""
  arguments, options, shape = MAPS[title]
  layer, bare = _scaled(arguments, options, SIGNS, nn.XnorMap(detached))
  x = _random(shape, 1)

  @jax.jit
  def both(x):
    def want(x):
      factor = _map(layer, x)
      if detached:
        factor = jax.lax.stop_gradient(factor)
      return _plus_bias(bare(x) * factor, layer)

    pairs = [jax.vjp(f, x) for f in (layer, want)]
    return [(y, pull(jnp.cos(y))[0]) for y, pull in pairs]

  layers.close(*both(x), 1e-5)


def test_xnor_map_at_zero_and_in_bfloat16():
  """|x| has slope 0 at 0; the map is computed in float32."""
  layer, _ = _scaled(
    (1, 1, (1, 1)), {"use_bias": False}, {}, nn.XnorMap(detached=False)
  )
  x = jnp.array([-2.0, 0.0, 0.5]).reshape(1, 3, 1, 1)
  y, pull = jax.vjp(layer, x)
  weight = layer.kernel[...].item()
  np.testing.assert_allclose(y.ravel(), weight * np.array([-4, 0, 0.25]))
  (dx,) = pull(jnp.ones_like(y))
  np.testing.assert_allclose(dx.ravel(), weight * np.array([4, 0, 1]))
  narrow = _scaled((4, 6, (3, 3)), {"dtype": BF16}, SIGNS, nn.XnorMap())
  x = _random((2, 6, 5, 4))
  got, product = (layer(x).astype(jnp.float32) for layer in narrow)
  want = product * _map(narrow[0], x)
  bias = narrow[0].bias[...]
  np.testing.assert_allclose(got, want + bias[None, None, None], atol=0.1)


@pytest.mark.parametrize("scale", [nn.XnorMap, lambda: nn.SpatialScale(6, 5)])
def test_the_cost_report_names_the_scaling(scale):
  """The product stays one of bits; the map is additions, no MACs."""
  layer, bare = _scaled((4, 6, (3, 3)), {}, SIGNS, scale())
  x = jax.ShapeDtypeStruct((1, 6, 5, 4), jnp.float32)
  report = cost.count(layer, x)
  assert report.macs == cost.count(bare, x).macs == {(1, 1): 9 * 24 * 30}
  marks = report.elementwise
  if scale is nn.XnorMap:
    assert marks == {
      "xnor_map_mean": 120,
      "xnor_map_box": 9 * 30,
      "xnor_map": 180,
    }
  else:
    assert marks == {"spatial_scale": 180}


ERRORS = {
  "another size": (
    lambda: _scaled((4, 6, (3, 3)), {}, SIGNS, nn.SpatialScale(5, 6))[0](
      jnp.ones((1, 6, 5, 4))
    ),
    r"made for outputs \(N, 5, 6, C\), got \(1, 6, 5, 6\)",
  ),
  "one axis": (
    lambda: _scaled((4, 6, 3), {}, SIGNS, nn.SpatialScale(5, 6))[0](
      jnp.ones((1, 5, 4))
    ),
    r"made for outputs \(N, 5, 6, C\), got \(1, 5, 6\)",
  ),
  "no rows": (lambda: nn.SpatialScale(0, 6), "at least 1; got 0 and 6"),
  "mask": (
    lambda: _scaled(
      (4, 6, (1, 1)), {"mask": jnp.ones((1, 1, 4, 6))}, {}, nn.XnorMap()
    ),
    "Conv: mask has no meaning with a quantizer or an output_scale",
  ),
}


@pytest.mark.parametrize(("make", "text"), ERRORS.values(), ids=ERRORS)
def test_errors(make, text):
  with pytest.raises(errors.UserError, match=text):
    make()
