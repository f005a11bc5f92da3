"""LinearGeneral that takes quantizers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jbin import errors, products
from jbin.nn import _linear, _quantizer, _sharded
from jbin.quantizers import Quantizer


@dataclasses.dataclass(frozen=True)
class Matrix:
  """A kernel (batch..., in..., out...) as a matrix (in, batch * out).

  Attributes:
    batch: the number of batch axes.
    inputs: the number of contracted axes.
  """

  batch: int
  inputs: int

  def __call__(self, kernel: jax.Array) -> jax.Array:
    """The matrix; its last axis is the output channel, of every batch."""
    rows = range(self.batch, self.batch + self.inputs)
    kernel = jnp.moveaxis(kernel, rows, range(self.inputs))
    return jnp.reshape(kernel, (math.prod(kernel.shape[: self.inputs]), -1))

  def places(
    self, shape: Sequence[int], split: Sequence[str | None]
  ) -> list[str | None] | None:
    """What splits the matrix, of what splits the kernel's axes.

    Args:
      shape: of the kernel.
      split: the mesh's axis for each of its axes, or None.

    Returns:
      The mesh's axes of rows and columns; None with batch axes, and where the
      parts of the kernel are no ranges of rows and columns.
    """
    if self.batch:
      return None
    found = []
    for group in (slice(self.inputs), slice(self.inputs, None)):
      first, *rest = [
        name
        for n, name in zip(shape[group], split[group], strict=True)
        if n > 1
      ] or [None]
      if any(name is not None for name in rest):
        return None
      found.append(first)
    return found


class LinearGeneral(nnx.LinearGeneral):
  """`nnx.LinearGeneral` that can quantize its input and its kernel.

  Without quantizers it is `nnx.LinearGeneral`, bit for bit. With them both are
  arranged as for `nn.Linear` first: the input's contracted axes become its
  last axis, the kernel a matrix (in, out) with as many rows and columns as the
  contracted and the other axes have entries (batch axes count as outputs:
  each of their matrices has output channels of its own). Quantizers and
  learned parameters see these, so a multi-head projection has a scale for each
  channel of each head.
  """

  def __init__(
    self,
    in_features: int | Sequence[int],
    out_features: int | Sequence[int],
    *,
    input_quantizer: Quantizer | None = None,
    kernel_quantizer: Quantizer | None = None,
    grad_precision: products.GradPrecision = "float32",
    rngs: nnx.Rngs,
    **kwargs: Any,
  ):
    """Makes the layer.

    Args:
      in_features: sizes of the contracted axes.
      out_features: sizes of the axes that take their place, at the end.
      input_quantizer: a `jbin.quantizers` member, or None.
      kernel_quantizer: the same for the kernel, as a matrix.
      grad_precision: of the gradient products of quantized operands.
      rngs: as in `nnx.LinearGeneral`.
      **kwargs: as in `nnx.LinearGeneral`.
    """
    super().__init__(in_features, out_features, rngs=rngs, **kwargs)
    if input_quantizer is not None or kernel_quantizer is not None:
      _linear.refuse_arithmetic("LinearGeneral", kwargs)
    self.grad_precision: products.GradPrecision = grad_precision
    self.input_quantizer = _quantizer.hold(
      input_quantizer, math.prod(self.in_features), rngs=rngs
    )
    self.kernel_quantizer = _quantizer.hold(
      kernel_quantizer,
      math.prod((*self.batch_axis.values(), *self.out_features)),
      self.kernel[...],
      rngs,
      self.kernel_layout,
    )

  @property
  def kernel_layout(self) -> Matrix:
    """How the kernel's quantizer arranges it."""
    return Matrix(len(self.batch_axis), len(self.in_features))

  def _rows(self, inputs: jax.Array) -> jax.Array:
    """The input, its contracted axes made one and put last.

    Raises:
      errors.UserError: if its sizes are not those of the layer.
    """
    ndim = inputs.ndim
    # Flax sorts the axes; the kernel's first axes are theirs in that order.
    axes = sorted(axis % ndim for axis in self.axis if -ndim <= axis < ndim)
    batch = tuple(self.batch_axis.values())
    found = tuple(inputs.shape[axis] for axis in axes)
    if found != self.in_features or inputs.shape[: len(batch)] != batch:
      want = f"{self.in_features} along axes {self.axis}"
      if batch:
        want += f", and {batch} along the first axes"
      raise errors.UserError(
        f"LinearGeneral: expected {want}, got {inputs.shape}"
      )
    x = jnp.moveaxis(inputs, axes, range(-len(axes), 0))
    return jnp.reshape(x, (*x.shape[: ndim - len(axes)], math.prod(found)))

  def _batched(self, part: jax.Array) -> jax.Array:
    """(in, batch * out) to (batch..., in, out); lengths of 1 stay."""
    batch = tuple(self.batch_axis.values())
    if part.shape[1] == 1:
      batch = (1,) * len(batch)
    part = jnp.reshape(part, (part.shape[0], *batch, -1))
    return jnp.moveaxis(part, 0, -2)

  def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
    """(..., in_features along `axis`) to (batch..., rest..., out_features)."""
    if self.input_quantizer is None and self.kernel_quantizer is None:
      return super().__call__(inputs, out_sharding)
    if out_sharding is not None:
      call = LinearGeneral.__call__
      return _sharded.call(call, out_sharding, self, inputs)
    kernel = self.kernel[...]
    if self.kernel_quantizer is None:
      kernel = self.kernel_layout(kernel)
    rows = self._rows(inputs)
    alone = rows.ndim == 1  # one example: a quantizer's axis 0 is the examples'
    x, kernel, dtype = _linear.operands(
      self, rows[None] if alone else rows, kernel
    )
    batch = tuple(range(len(self.batch_axis)))
    if batch:
      kernel = jax.tree.map(self._batched, kernel)
    y = products.dot_general(
      x,
      kernel,
      (((x.ndim - 1,), (len(batch),)), (batch, batch)),
      precision=self.precision,
      grad_precision=self.grad_precision,
    )
    y = jnp.reshape(y, (*y.shape[:-1], *self.out_features))
    if self.bias is not None:
      bias = self.bias[...].astype(dtype)
      rest = (1,) * (y.ndim - bias.ndim)
      shape = bias.shape
      y += jnp.reshape(
        bias, (*shape[: len(batch)], *rest, *shape[len(batch) :])
      )
    return jnp.squeeze(y, 0) if alone else y
