"""Stacks of blocks: how many there are, and what is none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jbin import errors, nn


def _linear(rngs):
  return nnx.Linear(2, 3, rngs=rngs)


def test_a_stack_has_the_members_it_was_made_of():
  stack = nn.stack(_linear, 3, nnx.Rngs(0))
  members = nn.members(stack)
  assert len(members) == 3
  for i, member in enumerate(members):
    kernel = stack.kernel[...][i]
    np.testing.assert_array_equal(member.kernel[...], kernel)


@pytest.mark.parametrize("depth", [0, -1])
def test_a_stack_of_nothing(depth):
  with pytest.raises(errors.UserError, match=f"stack of {depth} blocks cannot"):
    nn.stack(_linear, depth, nnx.Rngs(0))


@pytest.mark.parametrize(
  ("module", "text"),
  [
    (_linear(nnx.Rngs(0)), r"Linear is no stack .* \[\(2,\), \(3,\)\]"),
    (nnx.PReLU(), r"PReLU is no stack .* \[\(\)\]"),
    (nnx.List([]), r"List is no stack .* \[\]"),
    (
      nnx.List([nnx.Param(jnp.ones((2, 1))), nnx.Param(jnp.ones(3))]),
      "give what nn.stack made",
    ),
  ],
)
def test_what_is_no_stack_has_no_members(module, text):
  with pytest.raises(errors.UserError, match=text):
    nn.members(module)


class _Block(nnx.Module):
  def __init__(self, rngs):
    self.linear = nnx.Linear(3, 3, rngs=rngs)

  def __call__(self, x):
    return jnp.sin(self.linear(x))


@pytest.mark.parametrize(("remat", "products"), [("full", 4), ("dots", 3)])
def test_what_is_computed_again(remat, products):
  graphdef, state = nnx.split(nn.stack(_Block, 4, nnx.Rngs(0)))

  def loss(state, remat):
    blocks = nnx.merge(graphdef, state, copy=True)
    return nn.scan(blocks, jnp.ones((2, 3)), remat=remat)[0].sum()

  def grad(remat):
    return jax.grad(loss)(state, remat)

  jax.tree.map(np.testing.assert_array_equal, grad(remat), grad("none"))
  text = str(jax.make_jaxpr(lambda: grad(remat))())
  assert text.count("dot_general") == products  # in the bodies of the scans


def test_unknown_remat():
  blocks = nn.stack(_Block, 2, nnx.Rngs(0))
  with pytest.raises(errors.UnknownName, match="unknown remat 'all'"):
    nn.scan(blocks, jnp.ones((2, 3)), remat="all")
