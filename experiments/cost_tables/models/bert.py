"""BERT-base, an encoder with a pooler (arXiv 1810.04805), and BiBERT's.

The float model is of Flax's own layers. BiBERT's attention has no softmax: its
`attention_fn` compares scores with zero; all else comes from rules.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.cost_tables.models import parts

DIM, HEADS, DEPTH, VOCABULARY, POSITIONS = 768, 12, 12, 30522, 512

# Makes the function of one attention layer.
MakeAttention = Callable[[], Any]


class Layer(nnx.Module):
  """A post-norm transformer layer."""

  def __init__(self, attention: MakeAttention, *, rngs: nnx.Rngs):
    self.attn = nnx.MultiHeadAttention(
      HEADS, DIM, decode=False, attention_fn=attention(), rngs=rngs
    )
    self.norm1 = nnx.LayerNorm(DIM, rngs=rngs)
    self.mlp = parts.Mlp(DIM, 4, rngs=rngs)
    self.norm2 = nnx.LayerNorm(DIM, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    """(N, length, DIM) to the same."""
    x = parts.norm(self.norm1, x + self.attn(x))
    return parts.norm(self.norm2, x + self.mlp(x))


class Bert(nnx.Module):
  """Three tables, layers, and the pooler on the first token."""

  def __init__(
    self,
    attention: MakeAttention = lambda: nnx.dot_product_attention,
    *,
    rngs: nnx.Rngs,
  ):
    self.words = nnx.Embed(VOCABULARY, DIM, rngs=rngs)
    self.positions = nnx.Embed(POSITIONS, DIM, rngs=rngs)
    self.types = nnx.Embed(2, DIM, rngs=rngs)
    self.norm = nnx.LayerNorm(DIM, rngs=rngs)
    self.layers = nnx.List([Layer(attention, rngs=rngs) for _ in range(DEPTH)])
    self.pooler = nnx.Linear(DIM, DIM, rngs=rngs)

  def __call__(self, words: jax.Array, types: jax.Array) -> jax.Array:
    """(N, length) token and type numbers to (N, DIM)."""
    places = jnp.arange(words.shape[1])[None]
    x = self.words(words) + self.positions(places) + self.types(types)
    x = parts.norm(self.norm, x)
    for layer in self.layers:
      x = layer(x)
    return jnp.tanh(self.pooler(x[:, 0]))
