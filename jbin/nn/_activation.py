"""Activations of binary networks."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jbin import bits


def _channels(x: jax.Array, *params: nnx.Param[jax.Array]) -> list[jax.Array]:
  """Parameters (C,), to broadcast with `x`."""
  shape = (1,) * (x.ndim - 1) + (-1,)
  return [jnp.reshape(param[...], shape) for param in params]


def _bent(
  u: jax.Array,
  pos: jax.typing.ArrayLike,
  neg: jax.typing.ArrayLike,
  knee: jax.typing.ArrayLike,
) -> jax.Array:
  """`pos * u` above zero, `neg * u` below; dy/du at zero is `knee`."""
  return jnp.where(u > 0, pos, jnp.where(u < 0, neg, knee)) * u


def _filled(features: int, value: float) -> nnx.Param[jax.Array]:
  return nnx.Param(jnp.full(features, value, jnp.float32))


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
    self.bias_x = _filled(features, 0)
    self.bias_y = _filled(features, 0)
    self.neg_slope = _filled(features, neg_slope)
    self.pos_slope = _filled(features, pos_slope)
    self.dtype = dtype

  def __call__(self, x: jax.Array) -> jax.Array:
    """(..., C) to the same shape."""
    bias_x, bias_y, neg, pos = _channels(
      x, self.bias_x, self.bias_y, self.neg_slope, self.pos_slope
    )
    y = _bent(x - bias_x, pos, neg, pos) - bias_y
    return bits.mark(y.astype(self.dtype or x.dtype), "bprelu")


class RPReLU(nnx.Module):
  """PReLU between two shifts, all learned for each channel (ReActNet).

  `u = x + shift_in`, `y = (u if u > 0 else slope * u) + shift_out`. At the
  knee `dy/dx` is the slope, as in PyTorch's PReLU. 3 C parameters.

  Reference: Liu et al., 2020 (arXiv 2003.03488). Differs from the paper in:
  the first shift is added, as in the authors' code (the paper subtracts it).
  """

  def __init__(self, features: int, *, slope: float = 0.25, dtype: Any = None):
    """Makes the parameters, shifts of zero.

    Args:
      features: C, length of the last axis.
      slope: initial slope below the knee.
      dtype: as in `DPReLU`.
    """
    self.shift_in = _filled(features, 0)
    self.slope = _filled(features, slope)
    self.shift_out = _filled(features, 0)
    self.dtype = dtype

  def __call__(self, x: jax.Array) -> jax.Array:
    """(..., C) to the same shape."""
    shift_in, slope, shift_out = _channels(
      x, self.shift_in, self.slope, self.shift_out
    )
    y = _bent(x + shift_in, 1.0, slope, slope) + shift_out
    return bits.mark(y.astype(self.dtype or x.dtype), "rprelu")


class Maxout(nnx.Module):
  """A learned slope on either side of zero for each channel (AdaBin).

  `y = pos_slope * relu(x) - neg_slope * relu(-x)`. At zero `dy/dx = 0`, as
  that of relu in both frameworks. 2 C parameters.

  Reference: Tu et al., 2022 (arXiv 2208.08084).
  """

  def __init__(
    self,
    features: int,
    *,
    neg_slope: float = 0.25,
    pos_slope: float = 1.0,
    dtype: Any = None,
  ):
    """Makes the parameters; arguments as in `DPReLU`."""
    self.neg_slope = _filled(features, neg_slope)
    self.pos_slope = _filled(features, pos_slope)
    self.dtype = dtype

  def __call__(self, x: jax.Array) -> jax.Array:
    """(..., C) to the same shape."""
    neg, pos = _channels(x, self.neg_slope, self.pos_slope)
    y = _bent(x, pos, neg, 0.0)
    return bits.mark(y.astype(self.dtype or x.dtype), "maxout")
