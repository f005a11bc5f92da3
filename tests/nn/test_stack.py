"""Stacks of blocks: how many there are, and what is none."""

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
