"""The module that holds a quantizer: its variables, training and evaluation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jbin import nn, quantizers, schedules
from jbin.quantizers import _pokebnn
from tests import programs
from tests.nn import layers

SHAPE = (4, 3)


def _layer(start=0.0):
  return nn.Linear(
    3,
    8,
    input_quantizer=quantizers.ema_bounds(4, start=start),
    kernel_quantizer=quantizers.delayed(quantizers.poke_weight(1), 0.5),
    rngs=nnx.Rngs(0),
  )


def _x(seed):
  x = np.random.default_rng(seed).normal(size=SHAPE)
  return jnp.asarray(x, jnp.float32)


def _product(layer, x):
  """Of a layer whose kernel is not quantized yet."""
  kernel, bias = np.asarray(layer.kernel[...]), np.asarray(layer.bias[...])
  return np.asarray(x.value) @ kernel + bias


def test_names_of_the_state():
  """Checkpoints and sharding rules know these paths."""
  kinds = {path: kind for path, (kind, _) in layers.state_of(_layer()).items()}
  stats = ("input_quantizer", "statistics")
  assert kinds == {
    ("kernel",): nnx.Param,
    ("bias",): nnx.Param,
    ("input_quantizer", "progress"): schedules.Progress,
    ("kernel_quantizer", "progress"): schedules.Progress,
    (*stats, "bounds"): nn.QuantizerStat,
    **{(*stats, name): nn.QuantizerStat for name in _pokebnn.STATISTICS},
  }


def test_a_stateless_quantizer_adds_nothing():
  layer = nn.Linear(
    3,
    8,
    input_quantizer=quantizers.sign(),
    kernel_quantizer=quantizers.xnor(),
    rngs=nnx.Rngs(0),
  )
  assert set(layers.state_of(layer)) == {("kernel",), ("bias",)}


def test_training_measures_and_evaluation_does_not():
  layer = _layer()
  spec = layer.input_quantizer.spec
  stats = spec.statistics(3)
  for seed in range(3):
    layer(_x(seed))
    stats = spec.update(_x(seed), progress=jnp.float32(0), **stats)
  for name, value in stats.items():
    np.testing.assert_allclose(
      layer.input_quantizer.statistics[name][...], value, rtol=1e-6
    )
  before = layers.state_of(layer)
  view = nnx.view(layer, use_running_average=True)
  assert not layer.input_quantizer.use_running_average
  y = view(_x(9))
  for path, (_, value) in layers.state_of(layer).items():
    np.testing.assert_array_equal(value, before[path][1])
  want = _product(layer, spec(_x(9), **stats))
  np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-6)


def test_statistics_are_used_in_the_step_that_measures_them():
  layer = _layer()
  x = _x(0)
  spec = layer.input_quantizer.spec
  stats = spec.update(x, progress=jnp.float32(0), **spec.statistics(3))
  want = _product(layer, spec(x, **stats))
  np.testing.assert_allclose(layer(x), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["split and merge", "nnx.jit"])
def test_a_compiled_step_is_traced_once(kind):
  """State goes in and comes out; nothing changes its type on the way."""
  layer, eager = _layer(start=0.5), _layer(start=0.5)
  if kind == "nnx.jit":
    run = compiled = programs.Jit(lambda layer, x: layer(x), nnx.jit)
  else:
    graph = nnx.graphdef(layer)

    @programs.Jit
    def compiled(state, x):
      module = nnx.merge(graph, state)
      return module(x), nnx.state(module)

    def run(layer, x):
      y, new = compiled(nnx.state(layer), x)
      nnx.update(layer, new)
      return y

  for i in range(4):
    for each in (layer, eager):
      nnx.update(each, schedules.set_progress(nnx.state(each), i / 4))
    np.testing.assert_allclose(run(layer, _x(i)), eager(_x(i)), rtol=1e-5)
  assert compiled.traces == 1
  for path, (_, value) in layers.state_of(eager).items():
    np.testing.assert_allclose(
      layers.state_of(layer)[path][1], value, rtol=1e-6, err_msg=str(path)
    )
  assert (layer.input_quantizer.statistics["bounds"][...] > 0).all()


def test_layers_of_a_stack_keep_their_own_statistics():
  """Layers made by vmap and run by scan."""

  @nnx.vmap(in_axes=0, out_axes=0)
  def make(rngs):
    return nn.Linear(3, 3, input_quantizer=quantizers.ema_bounds(4), rngs=rngs)

  stack = make(nnx.Rngs(0).split(2))

  @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
  def run(layer, x):
    return layer(x)

  x = _x(0)
  y = run(stack, x)
  bounds = stack.input_quantizer.statistics["bounds"][...]
  assert bounds.shape == (2, 3)
  assert (bounds > 0).all()
  assert not np.allclose(bounds[0], bounds[1])
  graph, state = nnx.split(make(nnx.Rngs(0).split(2)))
  want = x
  for i in range(2):
    one = jax.tree.map(lambda leaf, i=i: leaf[i], state)
    want = nnx.merge(graph, one)(want)
  np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-6)
