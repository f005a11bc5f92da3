"""A decoder of `jbin.models` whose layers are not scanned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from jbin import nn


class Unrolled(nnx.Module):
  """Its layers stand one after another in the program, as most code has them.

  Attributes:
    model: the decoder, without its layers.
    layers: they, a list.
  """

  def __init__(self, make: Callable[..., Any], *, rngs: Any):
    self.model = make(rngs=rngs)
    self.layers = nnx.List(nn.members(self.model.layers))
    del self.model.layers

  def __call__(self, tokens: jax.Array) -> jax.Array:
    """(N, length) tokens to (N, length, vocabulary) scores."""
    positions, places = self.model.places(tokens)
    x = self.model.embed(tokens, positions)
    for layer in self.layers:
      x = layer(x, places)[0]
    return self.model.score(x)
