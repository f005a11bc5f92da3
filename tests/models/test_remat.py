"""What the backward pass computes again changes no number."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jbin
from jbin import convert, errors, models
from tests import programs

SMALL = {
  "resnet": functools.partial(
    models.resnet20, width=8, blocks=1, activation="hardtanh"
  ),
  "vit": functools.partial(
    models.vit,
    10,
    features=16,
    heads=2,
    depth=2,
    patch=4,
    image_size=8,
    dropout=0.25,
    drop_path=0.25,
  ),
  "pokebnn": functools.partial(
    models.pokebnn, 1.0, 10, stages=(1,), features=(8,), stem="conv3"
  ),
}


def _gradient(make, remat, low):
  """Loss, gradients, and all that the call has changed."""
  model = make(remat=remat, rngs=nnx.Rngs(0))
  x = jnp.asarray(np.random.default_rng(1).normal(size=(4, 8, 8, 3)))
  if low:
    rules = convert.REGISTRY.get("method")("bnn")
    model = jbin.quantize(model, rules, x[:1])
  graph, params, rest = nnx.split(model, nnx.Param, ...)

  def loss(params):
    now = nnx.merge(graph, params, rest, copy=True)
    y = jnp.square(now(x)).mean()
    state = nnx.state(now, nnx.Not(nnx.Param))
    return y, jax.tree.map(_plain, state)

  step = jax.value_and_grad(loss, has_aux=True)
  program = programs.equations(step, params)
  return programs.once(step)(params), program


def _plain(leaf):
  if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    return jax.random.key_data(leaf)
  return leaf


@pytest.mark.parametrize(
  "name",
  [
    "resnet",
    pytest.param("vit", marks=pytest.mark.slow),
    pytest.param("pokebnn", marks=pytest.mark.slow),
  ],
)
def test_values_and_what_is_measured_and_drawn(name):
  """Batch statistics and random streams too, each moved on once."""
  low = name == "resnet"
  want, _ = _gradient(SMALL[name], "none", low)
  got, program = _gradient(SMALL[name], "full", low)
  leaves = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
  for a, b in leaves:
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
  assert any("checkpoint" in e.primitive.name for e in program) or any(
    "remat" in e.primitive.name for e in program
  )


@pytest.mark.parametrize("name", SMALL)
def test_an_unknown_name_is_refused(name):
  with pytest.raises(errors.UserError, match="remat"):
    SMALL[name](remat="all", rngs=nnx.Rngs(0))
