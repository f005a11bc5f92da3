"""What models would show of their inside, made of random numbers."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np


class Taps(NamedTuple):
  logits: object
  hidden: object
  query: object
  key: object
  value: object
  token_logits: object = None


def taps(seed, depth=2, batch=3, tokens=4, heads=2, size=5, classes=3):
  rng = np.random.default_rng(seed)
  make = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  return Taps(
    make(batch, classes),
    make(depth + 1, batch, tokens, heads * size),
    *(make(depth, batch, tokens, heads, size) for _ in range(3)),
  )


def model(found):
  """A model that shows these, whatever it is given."""

  def call(*inputs, taps=False):
    del inputs
    return found if taps else found.logits

  return call
