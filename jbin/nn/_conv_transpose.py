"""Transposed convolution that takes quantizers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jbin import errors, products
from jbin.nn import _conv, _linear, _quantizer
from jbin.quantizers import Quantizer


def turned(kernel: jax.Array) -> jax.Array:
  """(spatial, out, in) to (spatial, in, out), its spatial axes flipped."""
  return jnp.flip(kernel, range(kernel.ndim - 2)).swapaxes(-1, -2)


def _wrapped(
  y: jax.Array, periods: Sequence[int], extra_right: bool
) -> jax.Array:
  """Adds up what lies whole periods apart, along each spatial axis.

  The middle of `y` stays in the middle; where the room around it is odd, the
  larger half is on the right or on the left.
  """
  width = [(0, 0)]
  for size, period in zip(y.shape[1:-1], periods, strict=True):
    room = -(size - period) % (2 * period)
    small, large = room // 2, (room + 1) // 2
    width.append((small, large) if extra_right else (large, small))
  y = jnp.pad(y, [*width, (0, 0)])
  for axis, period in enumerate(periods, 1):
    shape = (*y.shape[:axis], -1, period, *y.shape[axis + 1 :])
    y = jnp.reshape(y, shape).sum(axis)
  return y


class ConvTranspose(nnx.ConvTranspose):
  """`nnx.ConvTranspose` that can quantize its input and its kernel.

  Without quantizers it is `nnx.ConvTranspose`, bit for bit. With them
  `y = Q_x(x) *^T Q_w(kernel) + bias`; the product works on the codes, and what
  lies between and around the input's elements is the number 0.

  With `transpose_kernel` Flax stores the kernel as (spatial, out, in). The
  quantizer is given it as the product uses it, flipped and (spatial, in, out):
  its last axis is the output channel in either case.
  """

  def __init__(
    self,
    in_features: int,
    out_features: int,
    kernel_size: int | Sequence[int],
    strides: int | Sequence[int] | None = None,
    *,
    input_quantizer: Quantizer | None = None,
    kernel_quantizer: Quantizer | None = None,
    grad_precision: products.GradPrecision = "float32",
    rngs: nnx.Rngs,
    **kwargs: Any,
  ):
    """Makes the layer.

    Args:
      in_features: input channels.
      out_features: output channels.
      kernel_size: one entry for each spatial axis.
      strides: one number, or one for each spatial axis; None for 1.
      input_quantizer: a `jbin.quantizers` member, or None.
      kernel_quantizer: the same for the kernel (spatial, in, out).
      grad_precision: of the gradient products of quantized operands.
      rngs: as in `nnx.ConvTranspose`.
      **kwargs: as in `nnx.ConvTranspose`.
    """
    super().__init__(
      in_features, out_features, kernel_size, strides, rngs=rngs, **kwargs
    )
    self.grad_precision: products.GradPrecision = grad_precision
    self.input_quantizer = _quantizer.hold(
      input_quantizer, in_features, rngs=rngs
    )
    self.kernel_quantizer = _quantizer.hold(
      kernel_quantizer,
      out_features,
      self.kernel[...],
      rngs,
      self.kernel_layout,
    )
    if input_quantizer is not None or kernel_quantizer is not None:
      _linear.refuse("ConvTranspose", {"mask": self.mask})
      _linear.refuse_arithmetic("ConvTranspose", kwargs)

  @property
  def kernel_layout(self) -> _quantizer.Layout | None:
    """How the kernel's quantizer arranges it; None for as it is."""
    return turned if self.transpose_kernel else None

  def __call__(self, inputs: jax.Array) -> jax.Array:
    """(batch..., spatial..., in_features) to (..., out_features)."""
    if self.input_quantizer is None and self.kernel_quantizer is None:
      return super().__call__(inputs)
    axes = len(self.kernel_size)
    item = axes + 1
    if inputs.ndim < item or inputs.shape[-1] != self.in_features:
      raise errors.UserError(
        f"ConvTranspose: expected (batch..., {axes} spatial axes,"
        f" {self.in_features}), got {inputs.shape}"
      )
    batch = inputs.shape[:-item]
    x = jnp.reshape(inputs, (-1, *inputs.shape[-item:]))
    kernel = self.kernel[...]
    if self.kernel_quantizer is None and self.kernel_layout is not None:
      kernel = self.kernel_layout(kernel)
    x, kernel, dtype = _linear.operands(self, x, kernel)
    strides = _conv.each(self.strides, axes)
    circular = self.padding == "CIRCULAR"
    y = products.conv_transpose(
      x,
      kernel,
      strides,
      "VALID" if circular else _conv.pairs(self.padding, axes),
      rhs_dilation=_conv.each(self.kernel_dilation, axes),
      precision=self.precision,
      grad_precision=self.grad_precision,
    )
    if circular:
      sizes = zip(x.shape[1:-1], strides, strict=True)
      periods = [size * stride for size, stride in sizes]
      y = _wrapped(y, periods, self.transpose_kernel)
    if self.bias is not None:
      y += jnp.reshape(
        self.bias[...].astype(dtype), (1,) * (y.ndim - 1) + (-1,)
      )
    return jnp.reshape(y, (*batch, *y.shape[1:]))
