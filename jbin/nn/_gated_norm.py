"""RMS normalization of what a gate lets through."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jbin import errors, references


@references.cites("mamba2")
class GatedRMSNorm(nnx.Module):
  """Root-mean-square normalization with a gate, by groups of channels.

  `y = scale * v / sqrt(mean(v^2) + eps)` with `v = x * silu(gate)`, the mean
  over each group of channels; with `gate_first=False` it is `scale * x /
  sqrt(mean(x^2) + eps) * silu(gate)`. Without a gate both are the
  normalization alone. At `v = 0`: 0. Computed in float32, as are the
  gradients, which are the ordinary ones.

  Reference: Dao and Gu, 2024 (arXiv 2405.21060); the gate first, and groups
  of which each device has its own, are its code's. Differs from the code in:
  nothing.
  """

  def __init__(
    self,
    features: int,
    *,
    groups: int = 1,
    gate_first: bool = True,
    epsilon: float = 1e-5,
    dtype: Any = None,
    param_dtype: Any = jnp.float32,
    rngs: nnx.Rngs | None = None,
  ):
    """Makes the scale, of ones.

    Args:
      features: length of the last axis.
      groups: of channels side by side, that are normalized apart.
      gate_first: whether what is gated is normalized, or the other way round.
      epsilon: is added to the mean of squares.
      dtype: of the result; None: the input's.
      param_dtype: of the scale.
      rngs: is not used, as in Flax's norms.

    Raises:
      errors.UserError: if groups do not share the features evenly.
    """
    del rngs
    if groups < 1 or features % groups:
      raise errors.UserError(
        f"GatedRMSNorm: {groups} groups cannot share {features} features"
        " evenly; take a number of groups that divides them"
      )
    self.groups = groups
    self.gate_first = gate_first
    self.epsilon = epsilon
    self.dtype = dtype
    self.scale = nnx.Param(jnp.ones(features, param_dtype))

  def __call__(self, x: jax.Array, gate: jax.Array | None = None) -> jax.Array:
    """(..., features) to the same.

    Args:
      x: what is normalized.
      gate: the same shape, before its SiLU; None: there is none.
    """
    dtype = x.dtype if self.dtype is None else self.dtype
    x = x.astype(jnp.float32)
    let = None if gate is None else jax.nn.silu(gate.astype(jnp.float32))
    if let is not None and self.gate_first:
      x = x * let
    size = x.shape[-1] // self.groups  # no -1: there may be no tokens
    parts = jnp.reshape(x, (*x.shape[:-1], self.groups, size))
    square = jnp.mean(jnp.square(parts), -1, keepdims=True)
    y = jnp.reshape(parts * jax.lax.rsqrt(square + self.epsilon), x.shape)
    scale = jnp.reshape(self.scale[...], (1,) * (x.ndim - 1) + (-1,))
    y = y * scale.astype(jnp.float32)
    if let is not None and not self.gate_first:
      y = y * let
    return y.astype(dtype)
