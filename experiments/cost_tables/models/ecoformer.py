"""EcoFormer's attention: hash codes of 16 bits, linear in the tokens.

Paper: arXiv 2209.09004. Queries and keys share one projection, and a kernel of
25 anchors gives each token a code in {-1, +1}^16. The arithmetic that papers
and scripts charge for is marked by name, in elements; `papers/ecoformer.py`
has the prices.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from jbin import bits, quantizers

BITS = 16
ANCHORS = 25


class Attention(nnx.Module):
  """Softmax attention, written out: the scores' scale is marked."""

  def __init__(self, dim: int, heads: int, *, rngs: nnx.Rngs):
    self.heads = heads
    self.qkv = nnx.Linear(dim, 3 * dim, rngs=rngs)
    self.proj = nnx.Linear(dim, dim, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    """(N, tokens, dim) to the same."""
    qkv = jnp.reshape(self.qkv(x), (*x.shape[:-1], 3, self.heads, -1))
    q, k, v = (qkv[..., i, :, :] for i in range(3))
    scores = jnp.einsum("nqhd,nkhd->nhqk", q, k)
    scores = bits.mark(scores * q.shape[-1] ** -0.5, "score_scale")
    y = jnp.einsum("nhqk,nkhd->nqhd", jax.nn.softmax(scores), v)
    return self.proj(jnp.reshape(y, x.shape))


class HashAttention(nnx.Module):
  """EcoFormer's: `sum_j (<h_i, h_j> + c) v_j` in time linear in the tokens.

  `h` are the codes of the tokens, `c = bits + 1`. The numerator adds `c` times
  the token's own value, as the released code does.
  """

  def __init__(self, dim: int, heads: int, *, rngs: nnx.Rngs):
    self.heads = heads
    self.qk = nnx.Linear(dim, dim, rngs=rngs)
    self.v = nnx.Linear(dim, dim, rngs=rngs)
    self.proj = nnx.Linear(dim, dim, rngs=rngs)
    # Set by the learning of the hash, not by gradients.
    self.anchors = nnx.Variable(jnp.zeros((heads, ANCHORS, dim // heads)))
    self.means = nnx.Variable(jnp.zeros((heads, ANCHORS)))
    self.hash = nnx.Variable(jnp.zeros((heads, ANCHORS, BITS)))

  def codes(self, z: jax.Array) -> jax.Array:
    """(N, tokens, heads, d) to (N, tokens, heads, BITS), -1 and +1."""
    z = z / jnp.linalg.norm(z, axis=-1, keepdims=True)
    apart = z[..., None, :] - self.anchors[...][None, None]
    apart = bits.mark(apart, "kernel_distance")
    distance = jnp.square(apart).sum(-1)
    width = 2 * distance.mean((1, 3), keepdims=True)
    kernel = jnp.exp(bits.mark(-distance / width, "kernel_exponent"))
    kernel -= self.means[...][None, None]
    responses = jnp.einsum("nthm,hmb->nthb", kernel, self.hash[...])
    return quantizers.sign(edge="open")(responses).value

  def attend(self, z: jax.Array, v: jax.Array) -> jax.Array:
    """Projections and values (N, tokens, heads, d) to the same."""
    h = self.codes(z)
    shift = h.shape[-1] + 1
    total = bits.mark(h, "code_sum").sum(1)
    below = jnp.einsum("nthb,nhb->nth", bits.mark(h, "code_products"), total)
    below = bits.mark(below + h.shape[1] * shift, "denominator")
    context = jnp.einsum("nthb,nthd->nhbd", h, v)
    above = jnp.einsum("nthb,nhbd->nthd", h, context)
    above = bits.mark(above + shift * v, "own_value")
    return bits.mark(above / below[..., None], "normalize")

  def __call__(self, x: jax.Array) -> jax.Array:
    """(N, tokens, dim) to the same."""
    split = (*x.shape[:-1], self.heads, -1)
    z, v = jnp.reshape(self.qk(x), split), jnp.reshape(self.v(x), split)
    return self.proj(jnp.reshape(self.attend(z, v), x.shape))
