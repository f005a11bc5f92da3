"""BiPFT's low-rank estimates of what binarization leaves of attention."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jbin import references


@references.cites("bipft")
class LowRankResidual(nnx.Module):
  """Terms for scores and values, from the input of an attention (BiPFT).

  With queries `q = q_b + q_r`, their binary and their residual part, the
  product `q k^T` has three terms beside `q_b k_b^T`. They are estimated from
  the layer's input x by float maps to r channels, shared by all heads:

  `scores = (m_q(x) p_k(x)^T + p_q(x) m_k(x)^T + p_q(x) p_k(x)^T) / sqrt(d)`,
  where `p` stands for a residual and `m` for a binary part, and for the
  values' residual one number for each token, `p_v(x)`, added to every channel.
  Gradients are the ordinary ones. Kernels start as N(0, 0.02), biases at 0.

  Reference: Xing et al., 2024 (arXiv 2312.08937). Differs from the code in:
  any number of heads.
  """

  def __init__(
    self,
    features: int,
    rank: int = 1,
    *,
    dtype: Any = None,
    param_dtype: Any = jnp.float32,
    precision: Any = None,
    rngs: nnx.Rngs,
  ):
    """Makes the five maps.

    Args:
      features: length of the input's last axis.
      rank: of the scores' terms.
      dtype: of the computation.
      param_dtype: of the parameters.
      precision: of all products.
      rngs: for the kernels.
    """

    def linear(outputs: int) -> nnx.Linear:
      start = nnx.initializers.normal(0.02)
      return nnx.Linear(
        features,
        outputs,
        dtype=dtype,
        param_dtype=param_dtype,
        precision=precision,
        kernel_init=start,
        rngs=rngs,
      )

    self.precision = precision
    self.query_main, self.query_rest = linear(rank), linear(rank)
    self.key_main, self.key_rest = linear(rank), linear(rank)
    self.value_rest = linear(1)

  def scores(self, x: jax.Array, head_dim: int) -> jax.Array:
    """(batch..., tokens, features) to (batch..., 1, tokens, tokens)."""
    # The three terms are one product of 3r channels.
    rest = self.query_rest(x)
    left = jnp.concatenate([self.query_main(x), rest, rest], -1)
    rest = self.key_rest(x)
    right = jnp.concatenate([rest, self.key_main(x), rest], -1)
    terms = jnp.einsum(
      "...qr,...kr->...qk", left, right, precision=self.precision
    )
    return (terms / math.sqrt(head_dim))[..., None, :, :]

  def values(self, x: jax.Array) -> jax.Array:
    """(batch..., tokens, features) to (batch..., tokens, 1)."""
    return self.value_rest(x)
