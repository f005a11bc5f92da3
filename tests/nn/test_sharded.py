"""`out_sharding`, as Flax's layers take it, beside quantizers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jbin import nn, quantizers
from tests.nn import layers

SPLIT = PartitionSpec("data")
SLOTS = {
  # Measured, learned; and codes that are packed for the backward pass.
  "input_quantizer": quantizers.ema_bounds(4, per_channel=False),
  "kernel_quantizer": quantizers.bivit_weight(),
}
# Name -> arguments, shape of the input.
LAYERS = {
  "Linear": ((4, 8), (8, 4)),
  "LinearGeneral": ((4, (2, 4)), (8, 4)),
  "Einsum": (("btd,dk->btk", (4, 8)), (8, 3, 4)),
  "Conv": ((4, 8, (3, 3)), (8, 5, 5, 4)),
  "Embed": ((7, 4), (8, 3)),
}


def _mesh(kind):
  return jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(kind,) * 2)


def _made(name):
  slots = {"embedding_quantizer": quantizers.bivit_weight()}
  arguments, shape = LAYERS[name]
  if name == "Embed":
    x = jnp.arange(np.prod(shape)).reshape(shape) % 7
  else:
    slots = SLOTS
    x = jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)
  return getattr(nn, name)(*arguments, rngs=nnx.Rngs(0), **slots), x


def _run(layer, x, **options):
  """Output, gradients of the parameters, and all other state."""
  graph, params, rest = nnx.split(layer, nnx.Param, ...)

  @jax.jit
  def run(params, x):
    def loss(params):
      now = nnx.merge(graph, params, rest, copy=True)
      y = now(x, **options)
      return jnp.square(y).sum(), (y, nnx.state(now))

    return jax.grad(loss, has_aux=True)(params)

  gradients, (y, state) = run(params, x)
  return y, nnx.to_pure_dict(gradients), nnx.to_pure_dict(state)


@pytest.mark.parametrize("name", LAYERS)
def test_explicit_axes(name):
  """The result has the sharding; everything else is as on one device."""
  layer, x = _made(name)
  want = _run(layer, x)
  mesh = _mesh(AxisType.Explicit)
  with jax.set_mesh(mesh):
    layer, _ = _made(name)
    split = jax.device_put(x, NamedSharding(mesh, SPLIT))
    y, *rest = _run(layer, split, out_sharding=SPLIT)
    eager = layer(split, out_sharding=SPLIT)
  assert jax.typeof(y).sharding.spec[0] == "data"
  assert eager.sharding.spec[0] == "data"
  layers.close((y, *rest), want, 1e-5)


def test_attend():
  layer, _ = _made("Embed")
  query = jnp.asarray(np.random.default_rng(1).normal(size=(8, 4)), jnp.float32)
  want = layer.attend(query)
  with jax.set_mesh(_mesh(AxisType.Explicit)):
    got = _made("Embed")[0].attend(query, out_sharding=SPLIT)
  np.testing.assert_allclose(got, want, rtol=1e-6)
  assert got.sharding.spec[0] == "data"


def test_what_is_measured_is_kept_and_watched():
  with jax.set_mesh(_mesh(AxisType.Explicit)):
    layer, x = _made("Linear")
    watched = nnx.view(layer, watching=True)
    watched(x, out_sharding=SPLIT)
  assert (layer.input_quantizer.statistics["bounds"][...] > 0).all()
  assert float(watched.input_quantizer.seen[...][1]) == 1


@pytest.mark.parametrize(
  ("make", "text"),
  [(nn.Linear, "under a mesh context"), (nnx.Linear, "under a mesh context")],
)
def test_without_a_mesh_it_is_the_error_that_flax_has(make, text):
  slots = SLOTS if make is nn.Linear else {}
  layer = make(4, 8, rngs=nnx.Rngs(0), **slots)
  with pytest.raises(ValueError, match=text):
    layer(jnp.ones((8, 4)), out_sharding=SPLIT)


@pytest.mark.parametrize("make", [nn.Linear, nnx.Linear])
def test_an_automatic_axis_is_the_error_that_flax_has(make):
  slots = SLOTS if make is nn.Linear else {}
  layer = make(4, 8, rngs=nnx.Rngs(0), **slots)
  with (
    jax.set_mesh(_mesh(AxisType.Auto)),
    pytest.raises(ValueError, match="of type Auto or Manual"),
  ):
    layer(jnp.ones((8, 4)), out_sharding=SPLIT)
