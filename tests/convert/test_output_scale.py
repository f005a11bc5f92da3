"""A rule's output_scale: XNOR-Net's map, XNOR-Net++'s rows and columns."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jbin
from jbin import convert, errors, methods, nn, quantizers as q
from tests.convert.others import Cnn, UNet, images

K = methods.xnornet_k()
ROWS = methods.xnorpp()


def _entries(model, rules, *x):
  return {e.path: e for e in jbin.plan(model, rules, *x).entries}


def test_the_map_of_xnornet_on_a_model_that_others_wrote():
  """Each convolution's result, times K, plus its bias; and nothing else."""
  model, x = Cnn(nnx.Rngs(0)), images(8, 8, 1)
  rules = [jbin.Rule("conv.*", output_scale=nn.XnorMap, **K), jbin.Rule()]
  low = jbin.quantize(model, rules, x)
  bare = jbin.quantize(model, [jbin.Rule("conv.*", **K), jbin.Rule()], x)
  image = jax.random.normal(jax.random.key(1), (2, 6, 6, 8))
  scale = nn.XnorMap()
  bias = model.conv2.bias[...].reshape(1, 1, 1, -1)
  want = scale(bare.conv2(image) - bias, image, low.conv2) + bias
  np.testing.assert_allclose(low.conv2(image), want, rtol=1e-5, atol=1e-5)
  assert isinstance(low.conv1.output_scale, nn.XnorMap)
  assert low.conv1.output_scale is not low.conv2.output_scale
  assert "{xnornet," in jbin.cite(low)


def test_rows_and_columns_have_the_size_of_the_output():
  model, x = UNet(nnx.Rngs(0)), images(8, 8, 1)
  rule = jbin.Rule(output_scale=nn.SpatialScale, **ROWS)
  low = jbin.quantize(model, rule, x)
  for layer, size in ((low.down, 8), (low.bottom, 4), (low.out, 8)):
    assert layer.output_scale.height.shape == (size,)
    assert layer.output_scale.width.shape == (size,)
  assert low(x).shape == model(x).shape
  entries = _entries(model, rule, x)
  assert entries["up"].output_scale is None  # a transposed convolution
  assert "no Conv: the output_scale" in entries["up"].reason
  text = str(jbin.plan(model, rule, x))
  assert "sign(), xnorpp(), SpatialScale" in text
  assert "output_scale=SpatialScale" in text
  given = functools.partial(nn.SpatialScale, 8, 8)
  low = jbin.quantize(model, jbin.Rule("down", output_scale=given, **ROWS))
  assert low.down.output_scale.width.shape == (8,)


def test_a_stack_of_convolutions_has_a_stack_of_factors():
  @nnx.vmap
  def stack(key):
    return nnx.Conv(3, 3, (3, 3), rngs=nnx.Rngs(key))

  class Net(nnx.Module):
    def __init__(self):
      self.layers = stack(jax.random.split(jax.random.key(0), 2))

    def __call__(self, x):
      return jax.lax.scan(lambda x, f: (f(x), None), x, self.layers)[0]

  x = images(4, 6, 3)
  for make in (nn.SpatialScale, nn.XnorMap):
    low = jbin.quantize(Net(), jbin.Rule(output_scale=make, **ROWS), x)
    assert low(x).shape == x.shape
    if make is nn.SpatialScale:
      assert low.layers.output_scale.width.shape == (2, 6)


def test_a_layer_keeps_its_own():
  class Net(nnx.Module):
    def __init__(self, rngs):
      own = nn.XnorMap(detached=False)
      self.conv = nn.Conv(1, 2, (3, 3), output_scale=own, rngs=rngs)
      self.head = nn.Linear(2, 2, grad_precision="bfloat16", rngs=rngs)

    def __call__(self, x):
      return self.head(self.conv(x))

  net = Net(nnx.Rngs(0))
  for rule in (
    jbin.Rule(**K),
    jbin.Rule(output_scale=nn.XnorMap, grad_precision="float32", **K),
  ):
    low = jbin.quantize(net, rule, images(4, 4, 1))
    assert low.conv.output_scale.detached is False
    assert low.conv.grad_precision == "float32"
    assert low.head.grad_precision == "bfloat16"


def test_dequantize_takes_it_out_with_the_quantizers():
  model, x = Cnn(nnx.Rngs(0)), images(8, 8, 1)
  rules = [jbin.Rule("conv.*", output_scale=nn.SpatialScale, **ROWS)]
  low = jbin.quantize(model, rules, x)
  model, again = (
    nnx.view(net, deterministic=True, use_running_average=True)
    for net in (model, jbin.dequantize(low))
  )
  assert type(again.conv1) is nnx.Conv
  np.testing.assert_array_equal(again(x), model(x))
  net = nnx.Sequential(
    nn.Conv(1, 2, (1, 1), output_scale=nn.XnorMap(), rngs=nnx.Rngs(0))
  )
  with pytest.raises(errors.UserError, match="'layers/0': Conv: its output_sc"):
    jbin.dequantize(net)


def test_by_name_as_a_config_has_it():
  assert jbin.Rule(output_scale="XnorMap", **K).output_scale is nn.XnorMap
  rules = convert.REGISTRY.get("method")("xnornet_k", output_scale="XnorMap")
  assert rules[-1].output_scale is nn.XnorMap
  (rule,) = convert.REGISTRY.get("custom")(
    rules=[{"output_scale": "SpatialScale", "kernel_quantizer": q.xnorpp()}]
  )
  assert rule.output_scale is nn.SpatialScale


@pytest.mark.parametrize(
  ("fields", "text"),
  [
    ({"output_scale": "XnorMpa", **K}, "did you mean XnorMap"),
    ({"output_scale": nn.XnorMap(), **K}, "what makes one for each layer"),
    ({"output_scale": 3.0, **K}, "what makes one for each layer"),
    ({"output_scale": nn.XnorMap}, "neither an input_quantizer nor"),
  ],
)
def test_a_wrong_one_is_refused_at_once(fields, text):
  with pytest.raises(errors.UserError, match=text):
    jbin.Rule(**fields)


def test_a_size_needs_an_example_that_runs_the_layer():
  model = Cnn(nnx.Rngs(0))
  rule = jbin.Rule(output_scale=nn.SpatialScale, **ROWS)
  with pytest.raises(errors.UserError, match=r"'conv1', rule 0.*height, wid"):
    jbin.plan(model, rule)

  class Line(nnx.Module):
    def __init__(self):
      self.conv = nnx.Conv(1, 2, (3,), rngs=nnx.Rngs(0))

    def __call__(self, x):
      return self.conv(x)

  with pytest.raises(errors.UserError, match=r"'conv', rule 0.*on images"):
    jbin.plan(Line(), rule, jnp.ones((1, 5, 1)))
