"""ResNets: sizes, the structures that papers ask for, and their shapes."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jbin import errors, models, nn
from tests.models import abstract

SMALL = {"stem": "conv3", "num_classes": 10}
RESTE = {"order": "conv_act_norm", "head_norm": True}
RECU = {
  "activation": "hardtanh",
  "projection": "pool_pad",
  "head_norm": True,
}

# Parameters of the papers' code. Those of BiPer have 3,840 or 672 learned
# scales of the binary layers more, which are the quantizers'.
SIZES = {
  "He et al. R50": ("resnet50", {}, 25_557_032),
  "He et al. R18": ("resnet18", {}, 11_689_512),
  "He et al. R34": ("resnet34", {}, 21_797_672),
  "ReSTE R20": (
    "resnet20",
    {**RESTE, "projection": "slice_pad"},
    269_850,
  ),
  "He et al. R56": (
    "resnet20",
    {"blocks": 9, "projection": "slice_pad"},
    853_018,
  ),
  "ReSTE R18": ("resnet18", {**SMALL, **RESTE}, 11_174_986),
  "ReSTE R18 ImageNet": ("resnet18", {**RESTE, "shortcut": "conv"}, 11_690_536),
  "ReSTE R34 ImageNet": ("resnet34", {**RESTE, "shortcut": "conv"}, 21_798_696),
  "BiPer R20": ("resnet20", {**RECU, "shortcut": "conv"}, 270_522 - 672),
  "BiPer R18": ("resnet18", {**SMALL, **RECU}, 11_005_002 - 3_840),
  "BiPer R18 ImageNet": (
    "resnet18",
    {"activation": "hardtanh", "shortcut": "conv", "head_norm": True},
    11_694_376 - 3_840,
  ),
}


@pytest.mark.parametrize("case", SIZES)
def test_sizes(case):
  name, arguments, count = SIZES[case]
  model = abstract.build(name, **arguments)
  assert abstract.count(model) == count
  classes = 10 if name == "resnet20" or "stem" in arguments else 1000
  got = abstract.logits(model, (2, 64, 64, 3))
  assert (got.shape, got.dtype) == ((2, classes), jnp.float32)


def test_bfloat16():
  model = abstract.build("resnet20", width=8, dtype=jnp.bfloat16)
  assert abstract.logits(model, (2, 32, 32, 3)).dtype == jnp.bfloat16
  for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
    assert variable.dtype == jnp.float32, path


def test_it_is_float_and_has_the_layers_that_rules_reach():
  model = abstract.build("resnet20", width=8)
  layers = {
    "/".join(map(str, path)): module
    for path, module in nnx.iter_modules(model)
    if isinstance(module, nn.Conv | nn.Linear)
  }
  assert len(layers) == 1 + 9 * 2 + 2 + 1
  assert {"stem/conv", "blocks/3/shortcuts/0/conv", "head"} < set(layers)
  for layer in layers.values():
    assert layer.input_quantizer is None
    assert layer.kernel_quantizer is None


@pytest.mark.parametrize("size", [32, 30, 7])
@pytest.mark.parametrize("projection", ["conv", "pool_pad", "slice_pad"])
@pytest.mark.parametrize("shortcut", ["block", "conv"])
def test_shortcuts_fit_any_size(size, projection, shortcut):
  model = abstract.build(
    "resnet20", width=4, projection=projection, shortcut=shortcut
  )
  assert abstract.logits(model, (2, size, size, 3)).shape == (2, 10)


def _silent(**structure):
  """A unit-width net whose convolutions all give zero: shortcuts alone."""
  model = models.resnet20(width=2, rngs=nnx.Rngs(0), **structure)
  for block in model.blocks:
    for unit in block.units:
      unit.conv.kernel[...] = jnp.zeros_like(unit.conv.kernel[...])
  return nnx.view(model, use_running_average=True)


@pytest.mark.parametrize("shortcut", ["block", "conv"])
def test_what_passes_through_the_shortcuts(shortcut):
  x = np.random.default_rng(0).normal(size=(2, 8, 8, 2)).astype(np.float32)

  def out(projection):
    net = _silent(projection=projection, shortcut=shortcut, activation="none")
    block = net.blocks[3]
    return np.asarray(block(x))

  pooled = x.reshape(2, 4, 2, 4, 2, 2).mean((2, 4))
  for got, middle in (
    (out("pool_pad"), pooled),
    (out("slice_pad"), x[:, ::2, ::2]),
  ):
    assert got.shape == (2, 4, 4, 4)
    np.testing.assert_allclose(got[..., 1:3], middle, rtol=1e-5, atol=1e-6)
    assert not got[..., [0, 3]].any()


def test_orders():
  """Where the activation, the norm and the shortcut stand."""
  x = np.array([-3.0, -0.5, 0.5, 3.0], np.float32).reshape(1, 2, 2, 1)
  shortcut = np.full_like(x, -0.25)
  kernel = np.zeros((3, 3, 1, 1), np.float32)
  kernel[1, 1] = 1

  def unit(order, activation):
    net = models.resnet20(
      width=1, in_features=1, order=order, activation=activation,
      rngs=nnx.Rngs(0),
    )  # fmt: skip
    net.stem.conv.kernel[...] = jnp.asarray(kernel)
    net.stem.norm.bias[...] = jnp.full(1, 0.125)
    return nnx.view(net.stem, use_running_average=True)

  unit_scale = 1 / math.sqrt(1 + 1e-5)
  norm = x * unit_scale + 0.125
  for activation, function in (
    ("relu", lambda v: np.maximum(v, 0)),
    ("hardtanh", lambda v: np.clip(v, -1, 1)),
    ("none", lambda v: v),
  ):
    np.testing.assert_allclose(
      unit("conv_norm_act", activation)(x, shortcut),
      function(norm - 0.25),
      rtol=1e-5,
    )
    np.testing.assert_allclose(
      unit("conv_act_norm", activation)(x, shortcut),
      function(x) * unit_scale + 0.125 - 0.25,
      rtol=1e-5,
    )


def test_zero_gamma_and_init():
  model = models.resnet20(width=8, init="fan_in", rngs=nnx.Rngs(0))
  plain = models.resnet20(width=8, zero_gamma=False, rngs=nnx.Rngs(0))
  for net, last in ((model, 0.0), (plain, 1.0)):
    for block in net.blocks:
      scales = [np.asarray(unit.norm.scale[...]) for unit in block.units]
      assert (scales[0] == 1).all()
      assert (scales[1] == last).all()
  # 8 to 16 channels, 9 pixels: 2 / 72 and 2 / 144.
  for net, fan in ((model, 72), (plain, 144)):
    kernel = np.asarray(net.blocks[3].units[0].conv.kernel[...])
    assert kernel.std() == pytest.approx(math.sqrt(2 / fan), rel=0.1)


@pytest.mark.parametrize(
  "activation",
  ["relu", "hardtanh", "prelu", "rprelu", "maxout", "dprelu", "none"],
)
def test_every_activation_trains(activation):
  model = models.resnet20(width=2, activation=activation, rngs=nnx.Rngs(0))
  graph, params, rest = nnx.split(model, nnx.Param, ...)
  x = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)

  @jax.jit
  def grad(params):
    def loss(params):
      net = nnx.merge(graph, params, rest, copy=True)
      return jax.nn.log_softmax(net(x))[:, 0].mean()

    return jax.grad(loss)(params)

  for leaf in jax.tree.leaves(grad(params)):
    assert np.isfinite(leaf).all()


@pytest.mark.parametrize(
  ("arguments", "text"),
  [
    ({"activation": "hard_tanh"}, "unknown activation .*did you mean hardtanh"),
    ({"order": "norm_conv_act"}, "unknown order"),
    ({"shortcut": "convs"}, "unknown shortcut .*did you mean conv"),
    ({"projection": "pool"}, "unknown projection .*did you mean pool_pad"),
    ({"init": "fan"}, "unknown init"),
    ({"stem": "conv5"}, "unknown stem"),
  ],
)
def test_unknown_names(arguments, text):
  with pytest.raises(errors.UserError, match=text):
    models.resnet20(width=2, rngs=nnx.Rngs(0), **arguments)


def test_bottlenecks_with_a_shortcut_around_each_convolution():
  model = abstract.build("resnet50", shortcut="conv")
  assert abstract.logits(model, (2, 64, 64, 3)).shape == (2, 1000)
  with pytest.raises(errors.UserError, match="take projection='conv'"):
    models.resnet50(shortcut="conv", projection="pool_pad", rngs=nnx.Rngs(0))
