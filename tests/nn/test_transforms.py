"""Every layer in stacks, under jit, and in the cost report."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jbin import cost, nn, quantizers
from tests import programs
from tests.nn import layers
from tests.nn.rows import CASES

# The input of many; measures and learns nothing. The kernel's scale is learned.
INPUT, KERNEL = quantizers.absmax(8, (0,)), quantizers.bivit_weight()
EXTRA = {
  "ConvTranspose": (
    ("turned", (4, 6, (3, 2), 2), {"transpose_kernel": True}, (2, 6, 5, 4)),
  ),
  "LinearGeneral": (
    ("of heads", ((2, 3), (5, 2)), {"axis": (-2, -1)}, (2, 4, 2, 3)),
    ("batch axis", (5, (2, 3)), {"batch_axis": {0: 4}}, (4, 3, 5)),
  ),
}


def _rows():
  for name, rows in CASES.items():
    for title, *row in (rows[0], *EXTRA.get(name, ())):
      yield pytest.param(name, *row, id=f"{name}: {title}")


every_layer = functools.partial(
  pytest.mark.parametrize, ("name", "arguments", "options", "shape")
)(list(_rows()))


def _make(name, arguments, options, rngs):
  slots = {"input_quantizer": INPUT, "kernel_quantizer": KERNEL}
  if name == "Embed":
    slots = {"embedding_quantizer": KERNEL}
  return getattr(nn, name)(*arguments, rngs=rngs, **slots, **options)


def _input(name, arguments, shape, seed=0):
  if name == "Embed":
    return jnp.asarray(np.arange(math.prod(shape)).reshape(shape) % 5)
  x = np.random.default_rng(seed).normal(size=shape)
  return jnp.asarray(x, jnp.float32)


@every_layer
def test_a_learned_scale_is_that_of_the_kernel_as_its_quantizer_sees_it(
  name, arguments, options, shape
):
  """One for each output channel, wherever the kernel stores them."""
  layer = _make(name, arguments, options, nnx.Rngs(0))
  (path, quantizer), *_ = nn.latents(layer).items()
  weight = getattr(layer, path[-1])[...]
  seen = quantizer(weight)
  learned = quantizer.learned["alpha"][...]
  channels = {
    "LinearGeneral": lambda: math.prod(
      (*layer.batch_axis.values(), *layer.out_features)
    ),
    "Embed": lambda: layer.features,
    "Einsum": lambda: weight.shape[-1],
  }.get(name, lambda: layer.out_features)()
  assert learned.shape == (channels,)
  assert quantizer.channels == seen.shape[-1] == channels
  assert seen.value.size == weight.size
  laid = weight if quantizer.layout is None else quantizer.layout(weight)
  want = jnp.abs(laid).mean(tuple(range(laid.ndim - 1)))
  np.testing.assert_allclose(learned, want, rtol=1e-5)


@every_layer
def test_a_stack_of_layers(name, arguments, options, shape):
  """Made by vmap, run by vmap and by scan: each as on its own."""
  make = functools.partial(_make, name, arguments, options)
  stack = nnx.vmap(make, in_axes=0, out_axes=0)(nnx.Rngs(0).split(2))
  x = jnp.stack([_input(name, arguments, shape, seed) for seed in (1, 2)])
  graph, state = nnx.split(stack)
  want = jnp.stack(
    [
      nnx.merge(graph, jax.tree.map(lambda leaf, i=i: leaf[i], state))(x[i])
      for i in range(2)
    ]
  )
  call = lambda layer, x: layer(x)
  for wrapped in (nnx.vmap(call), nnx.scan(call, in_axes=0, out_axes=0)):
    np.testing.assert_allclose(wrapped(stack, x), want, rtol=1e-5, atol=1e-5)


@every_layer
def test_a_compiled_step_is_traced_once(name, arguments, options, shape):
  """Of a graph that is split, merged and made again."""

  @functools.partial(programs.Jit, static_argnums=0)
  def run(graph, state, x):
    layer = nnx.merge(graph, state)
    return layer(x), nnx.state(layer)

  x = _input(name, arguments, shape)
  results = []
  for _ in range(2):
    layer = _make(name, arguments, options, nnx.Rngs(0))
    graph, state = nnx.split(layer)
    y, state = run(graph, state, x)
    results.append(run(graph, state, x)[0])
    np.testing.assert_array_equal(y, results[-1])
  np.testing.assert_array_equal(*results)
  assert run.traces == 1


@every_layer
def test_the_cost_report_sees_the_bits(name, arguments, options, shape):
  """As many MACs as Flax's layer has, of 8 bits by 1."""
  rngs = nnx.Rngs(0)
  mine = nnx.eval_shape(lambda: _make(name, arguments, options, nnx.Rngs(0)))
  theirs = getattr(nnx, name)(*arguments, rngs=rngs, **options)
  x = jax.eval_shape(lambda: _input(name, arguments, shape))
  plain, report = (cost.count(layer, x) for layer in (theirs, mine))
  if name == "Embed":
    assert plain.macs == report.macs == {}
    return
  assert list(plain.macs) == [(32, 32)]
  assert report.macs == {(8, 1): plain.macs[32, 32]}
  assert not report.flagged
  ((path, _),) = nn.latents(mine).items()
  assert report.layers[0].params == ("/".join(path),)
  assert layers.state_of(theirs)[path][1].size == report.layers[0].weights
