"""Factors of a binary convolution's output that vary with the position."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from jbin import bits, errors, references
from jbin.nn import _conv


def _times(y: jax.Array, factor: jax.Array, name: str) -> jax.Array:
  """In float32, rounded once to the dtype of `y`."""
  return bits.mark((y.astype(jnp.float32) * factor).astype(y.dtype), name)


@references.cites("xnornetpp")
class SpatialScale(nnx.Module):
  """A learned factor for each row and each column of the output (XNOR++).

  `y = x h w` with h (H,) along rows and w (W,) along columns, ones at the
  start; gradients are those of the multiplication. The paper's third factor,
  one for each output channel, is the learned scale of the kernel quantizer.

  Reference: Bulat and Tzimiropoulos, 2019 (arXiv 1909.13863).
  """

  def __init__(self, height: int, width: int):
    """Makes the factors.

    Args:
      height: H, rows of the convolution's output.
      width: W, its columns.

    Raises:
      errors.UserError: if a size is less than 1.
    """
    if min(height, width) < 1:
      raise errors.UserError(
        "SpatialScale: height and width are those of the convolution's output,"
        f" at least 1; got {height} and {width}"
      )
    # Vectors: weight decay, which is for kernels, passes them by.
    self.height = nnx.Param(jnp.ones(height, jnp.float32))
    self.width = nnx.Param(jnp.ones(width, jnp.float32))

  def __call__(
    self, y: jax.Array, inputs: jax.Array | None = None, layer: Any = None
  ) -> jax.Array:
    """(N, H, W, C) to the same shape and dtype; `y` alone matters.

    Raises:
      errors.UserError: if the sizes are others than those at creation.
    """
    del inputs, layer
    sizes = (self.height.shape[-1], self.width.shape[-1])
    if y.ndim != 4 or y.shape[1:3] != sizes:
      raise errors.UserError(
        f"SpatialScale: made for outputs (N, {sizes[0]}, {sizes[1]}, C), got"
        f" {y.shape}; its factors belong to positions, so give it the size of"
        " the convolution's output, and images of one size"
      )
    rows = jnp.reshape(self.height[...], (1, -1, 1, 1))
    columns = jnp.reshape(self.width[...], (1, 1, -1, 1))
    return _times(y, rows * columns, "spatial_scale")


@references.cites("xnornet")
class XnorMap(nnx.Module):
  """The mean magnitude of the input under each window (XNOR-Net's K).

  `A = mean |x|` over the channels of a position, `K` the mean of A over the
  kernel's window, with the layer's strides, dilation and padding (zeros count:
  the divisor is always the number of taps); `y = conv * K`. In a grouped
  convolution each group has the map of its own channels. Nothing is learned.

  Backward: K is a constant (`detached=True`), or the derivative of the
  formula, with d|x|/dx = sign(x), 0 at 0.

  Reference: Rastegari et al., 2016 (arXiv 1603.05279), section 3.2. Differs
  from the paper in: it does not say whether K is differentiated; like the
  scale of `quantizers.xnor` it is not, unless asked.
  """

  def __init__(self, detached: bool = True):
    """Makes the map.

    Args:
      detached: whether K is a constant for the gradient.
    """
    self.detached = detached

  def __call__(
    self, y: jax.Array, inputs: jax.Array, layer: _conv.Conv
  ) -> jax.Array:
    """The result `y` of `layer` on `inputs`, times K."""
    size = layer.kernel_size
    groups = layer.feature_group_count
    x = lax.stop_gradient(inputs) if self.detached else inputs
    x = bits.mark(x.astype(jnp.float32), "xnor_map_mean")
    x = x * jnp.sign(lax.stop_gradient(x))
    x = jnp.reshape(x, (*x.shape[:-1], groups, -1)).mean(-1)
    x, padding = layer.padded(x)
    strides, spread, step = (
      (1, *_conv.each(option, len(size)), 1)
      for option in (
        layer.strides,
        layer.input_dilation,
        layer.kernel_dilation,
      )
    )
    if not isinstance(padding, str):
      padding = [(0, 0), *padding, (0, 0)]
    total = lax.reduce_window(
      x,
      0.0,
      lax.add,
      (1, *size, 1),
      strides,
      padding,
      base_dilation=spread,
      window_dilation=step,
    )
    taps = math.prod(size)
    mean = bits.mark(total / taps, "xnor_map_box", per_element=taps)
    if groups > 1:
      mean = jnp.repeat(mean, y.shape[-1] // groups, -1)
    return _times(y, mean, "xnor_map")
