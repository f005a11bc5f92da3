"""Stochastic depth: whole examples, the mean kept, rates of a stack."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jbin import errors, nn, views


def test_whole_examples_are_dropped_and_the_mean_stays():
  drop = nn.DropPath(0.25, rngs=nnx.Rngs(0))
  x = jnp.ones((4000, 2, 3), jnp.bfloat16)
  y = np.asarray(drop(x).astype(jnp.float32))
  assert drop(x).dtype == jnp.bfloat16
  np.testing.assert_array_equal(y, np.broadcast_to(y[:, :1, :1], y.shape))
  assert set(np.unique(y)) == {0.0, np.float32(jnp.bfloat16(1 / 0.75))}
  assert abs(y.mean() - 1) < 0.03
  other = np.asarray(drop(x).astype(jnp.float32))
  assert (other != y).any()


def test_it_is_off_in_evaluation_and_at_rate_0():
  drop, x = nn.DropPath(0.5, rngs=nnx.Rngs(0)), jnp.ones((3, 2))
  assert views.evaluation(drop)(x) is x
  none = nn.DropPath(0.0)
  assert none(x, 0.5) is x
  assert not jax.tree.leaves(nnx.state(none))


def test_rate_1_gives_0_and_its_gradient():
  drop = nn.DropPath(1.0, rngs=nnx.Rngs(0))
  graph, state = nnx.split(drop)
  run = lambda x: nnx.merge(graph, state, copy=True)(x).sum()
  value, grad = jax.value_and_grad(run)(jnp.ones((3, 2)))
  assert value == 0
  assert not grad.any()


class Block(nnx.Module):
  def __init__(self, rngs):
    self.drop = nn.DropPath(rngs=rngs)

  def __call__(self, x, rate):
    return x + self.drop(jnp.ones_like(x), rate)


def test_rates_of_a_stack_are_traced():
  stack = nn.stack(Block, 3, nnx.Rngs(0))
  rates = jnp.asarray([0.0, 1.0, 0.5])

  @nnx.jit
  def run(stack, rates):
    return nn.scan(stack, jnp.zeros((1000, 1)), each=rates)[0]

  y = np.asarray(run(stack, rates))
  assert set(np.unique(y)) == {1.0, 3.0}
  assert abs(y.mean() - 2) < 0.1
  assert (np.asarray(run(stack, rates)) != y).any()
  np.testing.assert_array_equal(run(views.evaluation(stack), rates), 3.0)


@pytest.mark.parametrize(
  ("rate", "rngs", "text"),
  [(1.5, nnx.Rngs(0), "from 0 to 1, not 1.5"), (0.5, None, "give it rngs")],
)
def test_errors(rate, rngs, text):
  with pytest.raises(errors.UserError, match=text):
    nn.DropPath(rate, rngs=rngs)
  with pytest.raises(errors.UserError, match="nor the call has a rate"):
    nn.DropPath(rngs=nnx.Rngs(0))(jnp.ones((2, 1)))
