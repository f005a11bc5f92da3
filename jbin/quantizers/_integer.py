"""Uniform symmetric integers, the bound measured on the tensor itself."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from jbin import estimators, references
from jbin.quantizers import _base, _parts


@_base.REGISTRY.register
@references.cites("integer_only")
@dataclasses.dataclass(frozen=True)
class absmax(_base.Quantizer):  # noqa: N801 - called like a function
  """Symmetric integers of 2 to 8 bits, scaled by the largest magnitude.

  `L = 2^(p-1) - 1`, `s = max|x| / L` over all axes but `axes`, constant for
  the gradient; forward `y = s * round(x / s)`, ties to even; backward
  `dx = dy` (nothing is outside the range). At zero: 0. A channel of zeros
  stays zeros, with a finite gradient.

  Attributes:
    bits: the width, 2 to 8.
    axes: the axes that keep a scale of their own. (-1,): each output channel
      of a kernel. (0,): each example. (): one scale for the tensor.
  """

  bits: int = 8
  axes: tuple[int, ...] = (-1,)
  widths = (2, 8)

  def __call__(
    self,
    x: jax.Array,
    *,
    progress: jax.Array | None = None,
    **variables: jax.Array,
  ) -> _base.Quantized:
    """Quantizes `x`, any shape that has the `axes`."""
    del progress, variables
    limit = 2 ** (self.bits - 1) - 1
    over = _parts.other_axes(x.ndim, self.axes)
    wide = x.astype(jnp.float32)
    largest = jax.lax.stop_gradient(jnp.abs(wide).max(over, keepdims=True))
    scale = jnp.where(largest > 0, largest, 1.0) / limit
    # A quarter of room: the largest, divided, may round to just above `limit`.
    edge = limit + 0.25
    codes = estimators.clipped_round(wide / scale, -edge, edge)
    return _base.make(
      codes,
      scale,
      bits=self.bits,
      levels=(-limit, limit),
      dtype=x.dtype,
      keep_scale=True,
    )
