"""A small transformer with the names that the rule sets know."""

import jax.numpy as jnp
from flax import nnx

from jbin import nn

DIM, HEADS = 16, 2
TOKENS = jnp.asarray([[1, 4, 2, 0, 3], [5, 5, 1, 2, 7]])


class Mlp(nnx.Module):
  def __init__(self, rngs):
    self.fc1 = nnx.Linear(DIM, 2 * DIM, rngs=rngs)
    self.fc2 = nnx.Linear(2 * DIM, DIM, rngs=rngs)

  def __call__(self, x):
    return self.fc2(nnx.gelu(self.fc1(x)))


class Block(nnx.Module):
  def __init__(self, rngs, low_rank=0):
    self.attn = nn.MultiHeadAttention(HEADS, DIM, low_rank=low_rank, rngs=rngs)
    self.norm1 = nnx.LayerNorm(DIM, rngs=rngs)
    self.mlp = Mlp(rngs)
    self.norm2 = nnx.LayerNorm(DIM, rngs=rngs)

  def __call__(self, x):
    x = x + self.attn(self.norm1(x))
    return x + self.mlp(self.norm2(x))


class Encoder(nnx.Module):
  """Tables, a scanned stack, a pooler, a head; `name` is the stack's."""

  def __init__(self, rngs, name="layers", low_rank=0):
    self.words = nnx.Embed(8, DIM, rngs=rngs)
    self.positions = nnx.Embed(5, DIM, rngs=rngs)
    self.types = nnx.Embed(2, DIM, rngs=rngs)
    setattr(self, name, nn.stack(lambda r: Block(r, low_rank), 2, rngs))
    self.name = name
    self.pooler = nnx.Linear(DIM, DIM, rngs=rngs)
    self.head = nnx.Linear(DIM, 3, rngs=rngs)

  def __call__(self, tokens):
    x = self.words(tokens) + self.positions(jnp.arange(5)[None])
    x = x + self.types(jnp.zeros_like(tokens))
    x, _ = nn.scan(getattr(self, self.name), x)
    return self.head(jnp.tanh(self.pooler(x[:, 0])))
