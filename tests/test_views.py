"""Twins of a model in another mode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jbin import cost, views


class Net(nnx.Module):
  """A model that keeps its random streams, and draws from them by itself."""

  def __init__(self, rngs):
    self.linear = nnx.Linear(4, 4, rngs=rngs)
    self.norm = nnx.BatchNorm(4, rngs=rngs)
    self.dropout = nnx.Dropout(0.5, rngs=rngs)
    self.rngs = rngs

  def __call__(self, x):
    noise = jax.random.normal(self.rngs.noise(), x.shape)
    return self.dropout(self.norm(self.linear(x))) + noise


def _counts(model):
  """How often each stream was drawn from."""
  return [int(n) for n in jax.tree.leaves(nnx.state(model, nnx.RngCount))]


def test_modes_are_set_and_streams_left_alone():
  model = Net(nnx.Rngs(0, noise=1))
  before = jax.tree.map(
    np.asarray, nnx.to_pure_dict(nnx.state(model, nnx.RngCount))
  )
  twin = views.evaluation(model)
  assert twin.dropout.deterministic
  assert twin.norm.use_running_average
  assert not model.dropout.deterministic
  after = jax.tree.map(
    np.asarray, nnx.to_pure_dict(nnx.state(model, nnx.RngCount))
  )
  assert jax.tree.all(jax.tree.map(np.array_equal, before, after))
  x = jnp.ones((2, 4))
  again = views.evaluation(Net(nnx.Rngs(0, noise=1)))
  np.testing.assert_array_equal(twin(x), again(x))


@pytest.mark.parametrize("make", [nnx.Linear, nnx.BatchNorm])
def test_modes_that_no_module_has_are_passed_over(make):
  rngs = nnx.Rngs(0)
  layer = make(4, rngs=rngs) if make is nnx.BatchNorm else make(4, 3, rngs=rngs)
  assert views.view(layer, nowhere=True)(jnp.ones((1, 4))).shape[0] == 1


def test_an_abstract_model_that_keeps_its_streams_is_counted():
  model = nnx.eval_shape(lambda: Net(nnx.Rngs(0, noise=1)))
  report = cost.count(model, jax.ShapeDtypeStruct((2, 4), jnp.float32))
  assert report.macs == {(32, 32): 32}
