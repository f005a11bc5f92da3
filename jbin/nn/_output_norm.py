"""A norm between a low-bit layer's product and its bias."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from jbin import bits, references


@references.cites("onebit")
class OutputNorm(nnx.Module):
  """Each result less its mean, over its deviation (OneBit's LayerNorm).

  `z = (y - mean y) / sqrt(mean (y - mean y)^2 + eps)` over the last axis, in
  float32, rounded once to the dtype of `y`. Backward: the derivative of the
  formula. Nothing is learned. Equal entries give 0.

  As `output_scale` of a `Linear` or `Conv` it stands before the bias.
  Reference: Xu et al., 2024 (arXiv 2402.11295). Differs from the code in
  nothing that is known.
  """

  layers = ("Linear", "Conv")

  def __init__(self, eps: float = 1e-5):
    """Makes the norm.

    Args:
      eps: added to the mean square.
    """
    self.eps = eps

  def __call__(
    self, y: jax.Array, inputs: jax.Array | None = None, layer: Any = None
  ) -> jax.Array:
    """(..., features) to the same shape and dtype; `y` alone matters."""
    del inputs, layer
    wide = y.astype(jnp.float32)
    wide -= wide.mean(-1, keepdims=True)
    square = jnp.square(wide).mean(-1, keepdims=True)
    wide *= lax.rsqrt(square + self.eps)
    return bits.mark(wide.astype(y.dtype), "layer_norm")
