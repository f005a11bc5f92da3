"""Convolution of each channel alone, in the form that is fast on the device."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Pads = tuple[tuple[int, int], ...]


def _conv(x: jax.Array, kernel: jax.Array, pads: Pads) -> jax.Array:
  spatial = "".join("DHW"[-len(pads) :])
  return lax.conv_general_dilated(
    x,
    kernel,
    (1,) * len(pads),
    pads,
    dimension_numbers=(f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"),
    feature_group_count=x.shape[-1],
  )


def _shifted(
  x: jax.Array, sizes: Sequence[int], pads: Pads
) -> Iterator[tuple[tuple[int, ...], jax.Array]]:
  """Each place in a kernel, and the part of the input that it meets."""
  inside = x.shape[1:-1]
  lengths = [
    n + sum(pad) - k + 1 for n, pad, k in zip(inside, pads, sizes, strict=True)
  ]
  x = jnp.pad(x.astype(jnp.float32), ((0, 0), *pads, (0, 0)))
  for place in itertools.product(*map(range, sizes)):
    ends = [i + n for i, n in zip(place, lengths, strict=True)]
    rows = tuple(slice(i, end) for i, end in zip(place, ends, strict=True))
    yield place, x[:, *rows]


def _sum(x: jax.Array, kernel: jax.Array, pads: Pads) -> jax.Array:
  """`_conv` as a sum of products of whole maps."""
  y = jnp.float32(0)
  for place, part in _shifted(x, kernel.shape[:-2], pads):
    weight = kernel[*place, 0].astype(jnp.float32)
    y = y + part * jnp.reshape(weight, (1,) * (x.ndim - 1) + (-1,))
  return y.astype(x.dtype)


def _run(x: jax.Array, kernel: jax.Array, pads: Pads) -> jax.Array:
  # XLA's loop for it on a CPU takes up to some hundred times as long.
  return lax.platform_dependent(
    x,
    kernel,
    cpu=functools.partial(_sum, pads=pads),
    default=functools.partial(_conv, pads=pads),
  )


def _kernel_by_conv(
  x: jax.Array, g: jax.Array, *, kernel: jax.ShapeDtypeStruct, pads: Pads
) -> jax.Array:
  run = lambda kernel: _conv(x, kernel, pads)
  (found,) = jax.linear_transpose(run, kernel)(g)
  return found


def _kernel_by_sum(
  x: jax.Array, g: jax.Array, *, kernel: jax.ShapeDtypeStruct, pads: Pads
) -> jax.Array:
  g = g.astype(jnp.float32)
  every = range(x.ndim - 1)
  parts = [
    (part * g).sum(every) for _, part in _shifted(x, kernel.shape[:-2], pads)
  ]
  return jnp.reshape(jnp.stack(parts), kernel.shape).astype(kernel.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _depthwise(x: jax.Array, kernel: jax.Array, pads: Pads) -> jax.Array:
  return _run(x, kernel, pads)


def _forward(
  x: jax.Array, kernel: jax.Array, pads: Pads
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  return _run(x, kernel, pads), (x, kernel)


def _backward(
  pads: Pads, kept: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
  x, kernel = kept
  sizes = kernel.shape[:-2]
  turned = jnp.flip(kernel, range(len(sizes)))
  back = tuple(
    (k - 1 - low, k - 1 - high)
    for k, (low, high) in zip(sizes, pads, strict=True)
  )
  like = jax.ShapeDtypeStruct(kernel.shape, kernel.dtype)
  dkernel = lax.platform_dependent(
    x,
    g,
    cpu=functools.partial(_kernel_by_sum, kernel=like, pads=pads),
    default=functools.partial(_kernel_by_conv, kernel=like, pads=pads),
  )
  return _run(g, turned, back), dkernel


_depthwise.defvjp(_forward, _backward)


def depthwise_conv(
  lhs: jax.Array,
  rhs: jax.Array,
  window_strides: Sequence[int],
  padding: Any,
  lhs_dilation: Sequence[int] | None = None,
  rhs_dilation: Sequence[int] | None = None,
  dimension_numbers: Any = None,
  feature_group_count: int = 1,
  precision: Any = None,
  **kwargs: Any,
) -> jax.Array:
  """`lax.conv_general_dilated`, fast on a CPU where each channel is alone.

  The `conv_general_dilated` argument of `nnx.Conv`. Forward and backward are
  those of the convolution, up to rounding. On a CPU, where as many groups as
  input and output channels are convolved with stride 1 and without dilation,
  it adds up products of shifted maps, in float32; elsewhere, and for all
  else, it is JAX's function. The cost counter sees the convolution. As of
  quantizers, there are no forward-mode derivatives: `jax.jvp` raises.

  Args:
    lhs: input, (N, spatial..., channels).
    rhs: kernel, (spatial..., 1, channels).
    window_strides: as in JAX, as are all that follow.
    padding: see `window_strides`.
    lhs_dilation: see `window_strides`.
    rhs_dilation: see `window_strides`.
    dimension_numbers: see `window_strides`.
    feature_group_count: see `window_strides`.
    precision: see `window_strides`.
    **kwargs: see `window_strides`.
  """
  once = {*window_strides, *(lhs_dilation or ()), *(rhs_dilation or ())} == {1}
  plain = precision is None and not any(v is not None for v in kwargs.values())
  alone = feature_group_count == lhs.shape[-1] == rhs.shape[-1] > 1
  floats = lhs.dtype == rhs.dtype and jnp.issubdtype(lhs.dtype, jnp.floating)
  if once and plain and alone and floats and _last(lhs, rhs, dimension_numbers):
    sizes = rhs.shape[:-2]
    pads = padding
    if isinstance(padding, str):
      inside = lhs.shape[1:-1]
      pads = lax.padtype_to_pads(inside, sizes, window_strides, padding)
    # A border as wide as the kernel would be cut off the gradient again, and
    # of a kernel that fits nowhere there is nothing to add up.
    if all(
      max(both) < k <= n + sum(both) and min(both) >= 0
      for n, k, both in zip(lhs.shape[1:-1], sizes, pads, strict=True)
    ):
      return _depthwise(lhs, rhs, tuple((int(a), int(b)) for a, b in pads))
  return lax.conv_general_dilated(
    lhs,
    rhs,
    window_strides,
    padding,
    lhs_dilation,
    rhs_dilation,
    dimension_numbers,
    feature_group_count,
    precision=precision,
    **kwargs,
  )


def _last(lhs: jax.Array, rhs: jax.Array, numbers: Any) -> bool:
  """Whether channels are the last axis, of one to three in space."""
  if not 3 <= lhs.ndim <= 5:
    return False
  spec = lax.conv_dimension_numbers(lhs.shape, rhs.shape, numbers)
  space = tuple(range(1, lhs.ndim - 1))
  channels = (0, lhs.ndim - 1, *space)
  kernel = (lhs.ndim - 1, lhs.ndim - 2, *(axis - 1 for axis in space))
  return (*spec,) == (channels, kernel, channels)
