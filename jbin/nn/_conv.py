"""Convolution that takes quantizers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jbin import errors, products
from jbin.nn import _linear, _quantizer, _sharded
from jbin.quantizers import Quantized, Quantizer


def _wrapped(
  x: products.Operand, border: Sequence[tuple[int, int]], mode: str
) -> products.Operand:
  """The input with copies of itself around it; its scales do not see them."""
  width = [(0, 0), *border, (0, 0)]

  def pad(part: jax.Array) -> jax.Array:
    return jnp.pad(part, width, mode=mode)

  if not isinstance(x, Quantized):
    return pad(x)

  def follow(part: jax.Array | None) -> jax.Array | None:
    if part is None or all(n == 1 for n in part.shape[1:-1]):
      return part
    return pad(jnp.broadcast_to(part, x.shape))

  codes = None if x.codes is None else pad(x.codes)
  scale, offset = follow(x.scale), follow(x.offset)
  return dataclasses.replace(
    x, value=pad(x.value), codes=codes, scale=scale, offset=offset, factors=None
  )


def each(option: int | Sequence[int] | None, axes: int) -> tuple[int, ...]:
  """An option that may be one number, or None for 1, for each spatial axis."""
  if option is None or isinstance(option, int):
    return (option or 1,) * axes
  return tuple(option)


def pairs(padding: Any, axes: int) -> Any:
  """Flax's ways to write padding: a name, or (low, high) for each axis."""
  if isinstance(padding, str):
    return padding
  if isinstance(padding, int):
    return [(padding, padding)] * axes
  return [(p, p) if isinstance(p, int) else tuple(p) for p in padding]


class Conv(nnx.Conv):
  """`nnx.Conv` that can quantize its input and its kernel.

  Without quantizers it is `nnx.Conv`, bit for bit. With them
  `y = Q_x(x) * Q_w(kernel) + bias`; the product works on the codes, and
  padding is the number 0, as in the papers' code. An `output_scale` comes
  between the product and the bias.
  """

  def __init__(
    self,
    in_features: int,
    out_features: int,
    kernel_size: int | Sequence[int],
    strides: int | Sequence[int] | None = 1,
    *,
    input_quantizer: Quantizer | None = None,
    kernel_quantizer: Quantizer | None = None,
    output_scale: _linear.OutputScale | None = None,
    grad_precision: products.GradPrecision = "float32",
    rngs: nnx.Rngs,
    **kwargs: Any,
  ):
    """Makes the layer.

    Args:
      in_features: input channels.
      out_features: output channels.
      kernel_size: one entry for each spatial axis.
      strides: one number, or one for each spatial axis.
      input_quantizer: a `jbin.quantizers` member, or None.
      kernel_quantizer: the same for the kernel (spatial, in / groups, out).
      output_scale: a module called with the convolution's result, its float
        input (both with one batch axis) and this layer; it returns the result
        that the bias is added to. `nn.SpatialScale`, `nn.XnorMap`,
        `nn.OutputNorm`.
      grad_precision: of the gradient products of quantized operands.
      rngs: as in `nnx.Conv`.
      **kwargs: as in `nnx.Conv`.
    """
    super().__init__(
      in_features, out_features, kernel_size, strides, rngs=rngs, **kwargs
    )
    self.grad_precision: products.GradPrecision = grad_precision
    self.input_quantizer = _quantizer.hold(
      input_quantizer, in_features, rngs=rngs
    )
    self.kernel_quantizer = _quantizer.hold(
      kernel_quantizer, out_features, self.kernel[...], rngs
    )
    self.output_scale: _linear.OutputScale | None = (
      nnx.data(None) if output_scale is None else output_scale
    )
    if self._altered:
      _linear.refuse("Conv", {"mask": self.mask}, _linear.BESIDE)
      _linear.refuse_arithmetic("Conv", kwargs, _linear.BESIDE)

  @property
  def _altered(self) -> bool:
    """Whether it does anything that Flax's layer does not."""
    parts = (self.input_quantizer, self.kernel_quantizer, self.output_scale)
    return any(part is not None for part in parts)

  def padded(self, x: products.Operand) -> tuple[products.Operand, Any]:
    """The input with the borders that are not zeros, and the zero padding."""
    padding = self.padding
    dilation = each(self.kernel_dilation, len(self.kernel_size))
    reach = [
      (k - 1) * d for k, d in zip(self.kernel_size, dilation, strict=True)
    ]
    if padding in ("CIRCULAR", "REFLECT"):
      mode = "wrap" if padding == "CIRCULAR" else "reflect"
      border = [(r // 2, (r + 1) // 2) for r in reach]
      return _wrapped(x, border, mode), "VALID"
    if padding == "CAUSAL":
      if len(reach) != 1:
        raise errors.UserError(
          f"Conv: causal padding needs one spatial axis, not {len(reach)}"
        )
      return x, [(reach[0], 0)]
    return x, pairs(padding, len(reach))

  def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
    """(batch..., spatial..., in_features) to (..., out_features)."""
    if not self._altered:
      return super().__call__(inputs, out_sharding)
    if out_sharding is not None:
      return _sharded.call(Conv.__call__, out_sharding, self, inputs)
    axes = len(self.kernel_size)
    item = axes + 1
    if inputs.ndim < item or inputs.shape[-1] != self.in_features:
      raise errors.UserError(
        f"Conv: expected (batch..., {axes} spatial axes,"
        f" {self.in_features}), got {inputs.shape}"
      )
    batch = inputs.shape[:-item]
    flat = jnp.reshape(inputs, (-1, *inputs.shape[-item:]))
    x, kernel, dtype = _linear.operands(self, flat, self.kernel[...])
    x, padding = self.padded(x)
    y = products.conv_general_dilated(
      x,
      kernel,
      each(self.strides, axes),
      padding,
      lhs_dilation=each(self.input_dilation, axes),
      rhs_dilation=each(self.kernel_dilation, axes),
      feature_group_count=self.feature_group_count,
      precision=self.precision,
      grad_precision=self.grad_precision,
    )
    if self.output_scale is not None:
      y = self.output_scale(y, flat, self)
    if self.bias is not None:
      y += jnp.reshape(
        self.bias[...].astype(dtype), (1,) * (y.ndim - 1) + (-1,)
      )
    return jnp.reshape(y, (*batch, *y.shape[1:]))
