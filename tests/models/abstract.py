"""Models without their arrays."""

import functools
import math
import types

import jax
import jax.numpy as jnp
from flax import nnx

from jbin import models, views


@functools.cache
def build(name, **arguments):
  """A model of abstract parameters; made once."""
  factory = models.REGISTRY.get(name)

  def make():
    # One key for all: counting them is most of the time that tracing takes.
    key = jax.random.key(0)
    # Stacks of blocks have streams of their own.
    split = nnx.Rngs(0).split
    rngs = types.SimpleNamespace(params=lambda: key, split=split)
    return factory(rngs=rngs, **arguments)

  return nnx.eval_shape(make)


def logits(model, shape):
  """Shape and dtype of what the model says of images, evaluating."""
  graph, state = nnx.split(views.evaluation(model))
  image = jax.ShapeDtypeStruct(shape, jnp.float32)
  return jax.eval_shape(lambda s, x: nnx.merge(graph, s)(x), state, image)


def parameters(model):
  """{path: shape} of every Param."""
  flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
  return {path: variable.shape for path, variable in flat}


def count(model):
  """How many numbers are trained."""
  return sum(math.prod(shape) for shape in parameters(model).values())
