"""The registry of models: factories that take `rngs` and return a module."""

from __future__ import annotations

from typing import NamedTuple

import jax

from jbin import registry

REGISTRY = registry.Registry("model")


class Outputs(NamedTuple):
  """What `model(..., taps=True)` gives of a model of equal blocks.

  Projections are those of the attentions, in floating point, before anything
  is quantized.
  """

  logits: jax.Array
  # (b, classes); of a language model (b, tokens, vocabulary).
  hidden: jax.Array
  # (layers + 1, b, tokens, features): the embedding, then each block's output.
  query: jax.Array
  # (layers, b, tokens, heads, head_dim), as are key and value; queries may
  # share theirs, which then have fewer heads.
  key: jax.Array
  value: jax.Array
  token_logits: jax.Array | None = None
  # (b, tokens, vocabulary) of a masked language model; else None.


class Predictions(NamedTuple):
  """What a model with a masked language model's head gives without taps."""

  logits: jax.Array
  # (b, classes): whether the second text follows the first.
  token_logits: jax.Array
  # (b, tokens, vocabulary).
