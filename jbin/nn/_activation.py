"""Activations of binary networks."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jbin import bits


class DPReLU(nnx.Module):
  """Dynamic PReLU: two slopes and two shifts for each channel (PokeBNN).

  `u = x - bias_x`, `y = (pos_slope if u >= 0 else neg_slope) * u - bias_y`.
  At the knee the positive slope's gradient counts. 4 C parameters.

  Reference: Zhang et al., 2022 (arXiv 2112.00133).
  """

  def __init__(
    self,
    features: int,
    *,
    neg_slope: float = 0.25,
    pos_slope: float = 1.0,
    dtype: Any = None,
  ):
    """Makes the parameters.

    Args:
      features: C, length of the last axis.
      neg_slope: initial slope below the knee.
      pos_slope: initial slope above it.
      dtype: of the result; None for that of the input. The arithmetic is in
        the parameters' float32.
    """
    self.bias_x = nnx.Param(jnp.zeros(features, jnp.float32))
    self.bias_y = nnx.Param(jnp.zeros(features, jnp.float32))
    self.neg_slope = nnx.Param(jnp.full(features, neg_slope, jnp.float32))
    self.pos_slope = nnx.Param(jnp.full(features, pos_slope, jnp.float32))
    self.dtype = dtype

  def __call__(self, x: jax.Array) -> jax.Array:
    """(..., C) to the same shape."""
    dtype = self.dtype or x.dtype
    shape = (1,) * (x.ndim - 1) + (-1,)
    bias_x, bias_y, neg, pos = (
      jnp.reshape(p[...], shape)
      for p in (self.bias_x, self.bias_y, self.neg_slope, self.pos_slope)
    )
    u = x - bias_x
    y = jnp.where(u >= 0, pos, neg) * u - bias_y
    return bits.mark(y.astype(dtype), "bprelu")
