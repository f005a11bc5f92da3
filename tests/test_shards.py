"""Low-bit layers inside `jax.shard_map`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, PartitionSpec as P

from jbin import nn, quantizers as q, shards


@pytest.mark.parametrize(
  ("inputs", "kernel"),
  [
    (q.sign(), q.xnor()),
    (q.absmax(8, (0,)), q.absmax(8)),
    (None, q.sign()),
    (q.lsq(4), q.lsq(4)),
    (q.rsign(), q.xnorpp()),
  ],
  ids=str,
)
def test_gradients_over_eight_devices_are_those_of_one(inputs, kernel):
  mesh = jax.make_mesh((8,), ("data",), (AxisType.Auto,))
  layer = nn.Linear(
    16,
    32,
    input_quantizer=inputs,
    kernel_quantizer=kernel,
    rngs=nnx.Rngs(0),
  )
  graphdef, state = nnx.split(layer)
  x = jax.random.normal(jax.random.key(0), (16, 16))

  def loss(state, x):
    return jnp.square(nnx.merge(graphdef, state)(x)).mean()

  @jax.shard_map(mesh=mesh, in_specs=(P(), P("data")), out_specs=P())
  def parted(state, x):
    return jax.lax.pmean(loss(state, x), "data")

  got = jax.jit(jax.grad(parted))(state, x)
  want = jax.jit(jax.grad(loss))(state, x)
  if not isinstance(inputs, q.lsq):  # its count of entries is a device's own
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
      got,
      want,
    )
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(got))


def test_outside_nothing_is_done():
  tree = {"a": jnp.ones(3), "key": jax.random.key(0)}
  assert shards.varying_alike(tree) is tree
