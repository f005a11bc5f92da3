"""Linear, Einsum and Embed that take quantizers."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jbin import errors, products
from jbin.nn import _gather, _quantizer, _sharded
from jbin.quantizers import Quantized, Quantizer

# (result, input, layer) -> result; (N, ..., out) and (N, ..., in).
OutputScale = Callable[[jax.Array, jax.Array, Any], jax.Array]
BESIDE = "a quantizer or an output_scale"


def operands(
  layer: Any, x: jax.Array, kernel: jax.Array
) -> tuple[products.Operand, products.Operand, Any]:
  """Input and kernel, quantized where the layer says so, in its dtype.

  The kernel's latent weights are quantized in their own precision and cast
  afterwards, so that a bfloat16 layer has the codes of a float32 one.
  """
  dtype = layer.dtype or jnp.result_type(x, kernel)
  x = jnp.asarray(x, dtype)
  left: products.Operand = x
  if layer.input_quantizer is not None:
    left = layer.input_quantizer(x)
  if layer.kernel_quantizer is None:
    return left, jnp.asarray(kernel, dtype), dtype
  right: Quantized = layer.kernel_quantizer(kernel)
  right = _gather.packed(layer, right)
  if right.dtype not in (jnp.float32, dtype) and _alone(right):
    right = dataclasses.replace(right, codes=None)
  value = right.value.astype(dtype)
  return left, dataclasses.replace(right, value=value), dtype


def _alone(kernel: Quantized) -> bool:
  """Whether only the value has the rounding of its own dtype."""
  scale = kernel.scale
  return kernel.offset is not None or (
    scale is not None and any(n > 1 for n in scale.shape[:-1])
  )


# Flax's hooks into the arithmetic that `products` takes over.
_ARITHMETIC = (
  "dot_general",
  "dot_general_cls",
  "einsum_op",
  "conv_general_dilated",
  "promote_dtype",
  "preferred_element_type",
)


def refuse_arithmetic(
  layer: str, kwargs: Mapping[str, Any], beside: str = "a quantizer"
) -> None:
  """Refuses Flax's hooks among a quantized layer's arguments."""
  refuse(layer, {name: kwargs.get(name) for name in _ARITHMETIC}, beside)


def refuse(
  layer: str, options: dict[str, Any], beside: str = "a quantizer"
) -> None:
  """Refuses Flax options that a quantized layer would silently ignore."""
  for name, value in options.items():
    if value is not None:
      raise errors.UserError(
        f"{layer}: {name} has no meaning with {beside}; leave one of them out"
      )


class Linear(nnx.Linear):
  """`nnx.Linear` that can quantize its input and its kernel.

  Without quantizers it is `nnx.Linear`, bit for bit. With them
  `y = Q_x(x) Q_w(kernel) + bias`; the product works on the codes. An
  `output_scale` comes between the product and the bias.
  """

  def __init__(
    self,
    in_features: int,
    out_features: int,
    *,
    input_quantizer: Quantizer | None = None,
    kernel_quantizer: Quantizer | None = None,
    output_scale: OutputScale | None = None,
    grad_precision: products.GradPrecision = "float32",
    rngs: nnx.Rngs,
    **kwargs: Any,
  ):
    """Makes the layer.

    Args:
      in_features: length of the input's last axis.
      out_features: length of the output's last axis.
      input_quantizer: a `jbin.quantizers` member, or None.
      kernel_quantizer: the same for the kernel (in, out).
      output_scale: a module called with the product, the float input (both
        with a batch axis) and this layer; it returns the result that the bias
        is added to. `nn.OutputNorm`.
      grad_precision: of the gradient products of quantized operands.
      rngs: as in `nnx.Linear`.
      **kwargs: as in `nnx.Linear`.
    """
    super().__init__(in_features, out_features, rngs=rngs, **kwargs)
    self.grad_precision: products.GradPrecision = grad_precision
    self.input_quantizer = _quantizer.hold(
      input_quantizer, in_features, rngs=rngs
    )
    self.kernel_quantizer = _quantizer.hold(
      kernel_quantizer, out_features, self.kernel[...], rngs
    )
    self.output_scale: OutputScale | None = (
      nnx.data(None) if output_scale is None else output_scale
    )
    if self._altered:
      refuse_arithmetic("Linear", kwargs, BESIDE)

  @property
  def _altered(self) -> bool:
    """Whether it does anything that Flax's layer does not."""
    parts = (self.input_quantizer, self.kernel_quantizer, self.output_scale)
    return any(part is not None for part in parts)

  def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
    """(..., in_features) to (..., out_features)."""
    if not self._altered:
      return super().__call__(inputs, out_sharding)
    if out_sharding is not None:
      return _sharded.call(Linear.__call__, out_sharding, self, inputs)
    if inputs.shape[-1:] != (self.in_features,):
      raise errors.UserError(
        f"Linear: expected (batch..., {self.in_features}), got {inputs.shape}"
      )
    if inputs.ndim == 1:  # one example: a quantizer's axis 0 is the examples'
      return jnp.squeeze(self(inputs[None]), 0)
    x, kernel, dtype = operands(self, inputs, self.kernel[...])
    y = products.dot_general(
      x,
      kernel,
      (((inputs.ndim - 1,), (0,)), ((), ())),
      precision=self.precision,
      grad_precision=self.grad_precision,
    )
    if self.output_scale is not None:
      y = self.output_scale(y, inputs, self)
    if self.bias is not None:
      y += jnp.reshape(
        self.bias[...].astype(dtype), (1,) * (y.ndim - 1) + (-1,)
      )
    return y


class Einsum(nnx.Einsum):
  """`nnx.Einsum` that can quantize its input and its kernel.

  Without quantizers it is `nnx.Einsum`, bit for bit.
  """

  def __init__(
    self,
    einsum_str: str,
    kernel_shape: tuple[int, ...],
    bias_shape: tuple[int, ...] | None = None,
    *,
    input_quantizer: Quantizer | None = None,
    kernel_quantizer: Quantizer | None = None,
    grad_precision: products.GradPrecision = "float32",
    rngs: nnx.Rngs,
    **kwargs: Any,
  ):
    """Makes the layer.

    Args:
      einsum_str: as in `nnx.Einsum`; with quantizers both operands and the
        result are written out, without "...".
      kernel_shape: the second operand's.
      bias_shape: None for no bias.
      input_quantizer: a `jbin.quantizers` member, or None.
      kernel_quantizer: the same for the kernel; its last axis is the channel.
      grad_precision: of the gradient products of quantized operands.
      rngs: as in `nnx.Einsum`.
      **kwargs: as in `nnx.Einsum`.
    """
    super().__init__(einsum_str, kernel_shape, bias_shape, rngs=rngs, **kwargs)
    if input_quantizer is not None or kernel_quantizer is not None:
      refuse_arithmetic("Einsum", kwargs)
    left, right = einsum_str.replace(" ", "").split("->")[0].split(",")
    sizes = dict(zip(right, kernel_shape, strict=False))
    self.grad_precision: products.GradPrecision = grad_precision
    # An input's last axis is a kernel's axis in every layer-like einsum; where
    # it is not, a quantizer with channels cannot know its size.
    channels = sizes.get(left[-1], 1)
    self.input_quantizer = _quantizer.hold(input_quantizer, channels, rngs=rngs)
    self.kernel_quantizer = _quantizer.hold(
      kernel_quantizer, kernel_shape[-1], self.kernel[...], rngs
    )

  def __call__(
    self,
    inputs: jax.Array,
    einsum_str: str | None = None,
    out_sharding: Any = None,
  ) -> jax.Array:
    """The einsum of `inputs` with the kernel, plus the bias."""
    if self.input_quantizer is None and self.kernel_quantizer is None:
      return super().__call__(inputs, einsum_str, out_sharding)
    if out_sharding is not None:
      call = functools.partial(Einsum.__call__, einsum_str=einsum_str)
      return _sharded.call(call, out_sharding, self, inputs)
    equation = (einsum_str or self.einsum_str).replace(" ", "")
    x, kernel, dtype = operands(self, inputs, self.kernel[...])
    y = products.einsum(
      equation,
      x,
      kernel,
      precision=self.precision,
      grad_precision=self.grad_precision,
    )
    if self.bias is not None:
      operand, out = equation.split("->")
      sizes = dict(zip(operand.split(",")[1], self.kernel_shape, strict=True))
      shape = [sizes.get(axis, 1) for axis in out]
      y += jnp.reshape(self.bias[...].astype(dtype), shape)
    return y


class Embed(nnx.Embed):
  """`nnx.Embed` that can quantize its table (rows are the vectors)."""

  def __init__(
    self,
    num_embeddings: int,
    features: int,
    *,
    embedding_quantizer: Quantizer | None = None,
    rngs: nnx.Rngs,
    **kwargs: Any,
  ):
    """Makes the layer.

    Args:
      num_embeddings: rows of the table.
      features: length of a row.
      embedding_quantizer: a `jbin.quantizers` member, or None; `axes=(0,)`
        gives each row a scale.
      rngs: as in `nnx.Embed`.
      **kwargs: as in `nnx.Embed`.
    """
    super().__init__(num_embeddings, features, rngs=rngs, **kwargs)
    self.embedding_quantizer = _quantizer.hold(
      embedding_quantizer, features, self.embedding[...], rngs
    )

  def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
    """Integers of any shape to rows: (...) to (..., features)."""
    if self.embedding_quantizer is None:
      return super().__call__(inputs, out_sharding=out_sharding)
    if out_sharding is not None:
      return _sharded.call(Embed.__call__, out_sharding, self, inputs)
    if not jnp.issubdtype(inputs.dtype, jnp.integer):
      raise errors.UserError(
        f"Embed takes integers, got {inputs.dtype} of shape {inputs.shape}"
      )
    table = self.embedding_quantizer(self.embedding[...]).value
    return jnp.take(table.astype(self.dtype or table.dtype), inputs, axis=0)

  def attend(self, query: jax.Array, out_sharding: Any = None) -> jax.Array:
    """Scores of `query` (..., features) against every row."""
    if self.embedding_quantizer is None:
      return super().attend(query, out_sharding=out_sharding)
    if out_sharding is not None:
      return _sharded.call(Embed.attend, out_sharding, self, query)
    dtype = self.dtype or query.dtype
    table = self.embedding_quantizer(self.embedding[...]).value
    return jnp.dot(query.astype(dtype), table.astype(dtype).T)
