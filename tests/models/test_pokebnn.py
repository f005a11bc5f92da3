"""PokeBNN at every width, on abstract values; one tiny net trains a step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jbin import errors, models, nn, quantizers, schedules
from tests.models import abstract

SHALLOW = (1, 1, 1, 1)
# At full depth; the paper's table has 0.5x and 1.0x.
PARAMETERS = {0.5: 7_209_784, 1.0: 26_567_424}


@pytest.mark.parametrize("width", [0.5, 0.75, 1.0, 1.25, 1.4, 1.5, 1.75, 2.0])
def test_every_width_traces(width):
  """One block of each stage has every kind of shortcut, the ragged too."""
  model = abstract.build("pokebnn", width=width, stages=SHALLOW)
  got = abstract.logits(model, (2, 64, 64, 3))
  assert (got.shape, got.dtype) == ((2, 1000), jnp.float32)
  features = [block.conv1.conv.out_features for block in model.blocks]
  assert features == [int(width * count) for count in (64, 128, 256, 512)]
  assert model.head.in_features == 4 * features[-1]


@pytest.mark.parametrize(("width", "count"), PARAMETERS.items())
def test_parameters_at_full_depth(width, count):
  model = abstract.build("pokebnn", width=width)
  assert len(model.blocks) == 16
  assert abstract.count(model) == count


def test_bfloat16_logits():
  model = abstract.build("pokebnn", stages=SHALLOW, dtype=jnp.bfloat16)
  assert abstract.logits(model, (2, 64, 64, 3)).dtype == jnp.bfloat16
  for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
    assert variable.dtype == jnp.float32, path


def test_the_float_twin_has_the_same_parameters_and_no_quantizer():
  model = abstract.build("pokebnn", width=0.5, stages=SHALLOW)
  twin = abstract.build("pokebnn", width=0.5, stages=SHALLOW, quantized=False)
  assert abstract.parameters(model) == abstract.parameters(twin)
  assert not nnx.state(twin, (nn.QuantizerStat, schedules.Progress))
  assert not any(isinstance(m, nn.Quantizer) for _, m in nnx.iter_modules(twin))
  assert abstract.logits(twin, (2, 64, 64, 3)).shape == (2, 1000)


def test_bits_of_the_layers():
  """Body 1 bit, squeeze-excite 4, both ends 8; when each begins."""
  model = abstract.build(
    "pokebnn", stages=SHALLOW, weights_from=0.25, bounds_at=0.125, bound=2.0
  )
  bits = {}
  for path, module in nnx.iter_modules(model):
    if isinstance(module, (nn.Conv, nn.Linear)):
      bits[path] = (module.input_quantizer.spec, module.kernel_quantizer.spec)
  eight = quantizers.ema_bounds(8, start=0.125)
  for path, (left, right) in bits.items():
    late = 0.0 if path == ("head",) else 0.25
    if path[0] != "blocks":
      assert (left, right) == (
        eight,
        quantizers.delayed(quantizers.poke_weight(8), late),
      )
    elif "se" in path:
      signed = path[-1] == "fc1"
      assert left == quantizers.ema_bounds(4, start=0.125, signed=signed)
      assert right == quantizers.delayed(quantizers.poke_weight(4), late)
    else:
      assert left == quantizers.poke_activation(2.0)
      assert right == quantizers.delayed(quantizers.poke_weight(1), late)
  assert len(bits) == 4 * 3 * 3 + 3


@pytest.mark.parametrize(
  ("arguments", "text"),
  [
    ({"stem": "conv4"}, "unknown stem 'conv4'; did you mean conv3"),
    ({"width": 0.01}, "every stage needs at least one"),
    ({"stages": (1, 1)}, "every stage needs at least one"),
  ],
)
def test_errors(arguments, text):
  with pytest.raises(errors.UserError, match=text):
    models.pokebnn(rngs=nnx.Rngs(0), **arguments)


def _with_bounds(rest, bound):
  """The state with every activation bound set, as after long training."""

  def at(path, leaf):
    if jax.tree_util.DictKey("bounds") in path:
      return jnp.full_like(leaf, bound)
    return leaf

  return jax.tree_util.tree_map_with_path(at, rest)


@pytest.fixture(scope="module")
def steps():
  """A tiny net's loss, state and gradients, in one program.

  In the step that sets the activation bounds, and with bounds that are set.
  """
  model = models.pokebnn(
    num_classes=3,
    stages=(1,),
    features=(8,),
    stem="conv3",
    in_features=1,
    bounds_at=0.0,
    rngs=nnx.Rngs(0),
  )
  graph, params, rest = nnx.split(model, nnx.Param, ...)
  x = np.random.default_rng(0).normal(size=(16, 8, 8, 1)).astype(np.float32)

  @jax.jit
  def run(params, rest, x):
    def loss(params):
      net = nnx.merge(graph, params, rest, copy=True)
      wide = jax.nn.log_softmax(net(x))
      return -wide[:, 0].mean(), nnx.state(net)

    (value, state), gradients = jax.value_and_grad(loss, has_aux=True)(params)
    return value, state, gradients

  return run(params, rest, x), run(params, _with_bounds(rest, 0.5), x)


def test_a_tiny_net_trains_finitely(steps):
  for value, state, gradients in steps:
    assert np.isfinite(value)
    for leaf in jax.tree.leaves((state, gradients)):
      assert np.isfinite(leaf).all()


def test_every_parameter_gets_a_gradient(steps):
  """Save what lies before the norm that starts at 0, as the paper has it."""
  _, _, gradients = steps[1]
  without = {
    path
    for path, gradient in nnx.to_flat_state(gradients)
    if not np.asarray(gradient[...]).any()
  }
  assert without == {("blocks", 0, "conv3", "conv", "kernel")}


def test_bounds_are_set_in_the_step_that_is_due_and_stay(steps):
  for (_, state, _), kept in zip(steps, (False, True), strict=True):
    bounds = [
      np.asarray(variable[...])
      for path, variable in nnx.to_flat_state(state)
      if path[-1] == "bounds"
    ]
    assert len(bounds) == 2 + 3 * 2
    for each in bounds:
      assert (each >= 0).all()
      assert (each == 0.5).all() == kept
