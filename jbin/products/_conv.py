"""Convolutions of low-bit tensors, channels last."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax

from jbin.products import _core, _form, _geometry

Padding = str | Sequence[tuple[int, int]]


def _numbers(ndim: int) -> lax.ConvDimensionNumbers:
  """N, spatial, C for arrays and spatial, I, O for kernels."""
  spatial = tuple(range(1, ndim - 1))
  io = (0, ndim - 1, *spatial)
  return lax.ConvDimensionNumbers(
    io, (ndim - 1, ndim - 2, *range(ndim - 2)), io
  )


def _apply(
  convolution: Callable[..., jax.Array],
  keywords: tuple[tuple[str, Any], ...],
  lhs: jax.Array,
  rhs: jax.Array,
  total: Any,
) -> jax.Array:
  return convolution(
    lhs,
    rhs,
    dimension_numbers=_numbers(lhs.ndim),
    preferred_element_type=total,
    **dict(keywords),
  )


def _windows(
  convolution: Callable[..., jax.Array],
  keywords: dict[str, Any],
  ndim: int,
  groups: int,
  dilation: Sequence[int] | None,
) -> _geometry.Geometry:
  """Positions and output channels stay; what is inside a window is summed."""
  none = (None,) * (ndim - 1)
  return _geometry.Geometry(
    apply=functools.partial(_apply, convolution, tuple(keywords.items())),
    lhs_out=(0, *none),
    rhs_out=(*none, ndim - 1),
    out_ndim=ndim,
    kind="conv",
    groups=groups,
    spread=any(n != 1 for n in dilation or ()),
  )


def _fixed(padding: Padding) -> Padding:
  if isinstance(padding, str):
    return padding
  return tuple((int(low), int(high)) for low, high in padding)


def conv_general_dilated(
  x: _core.Operand,
  w: _core.Operand,
  window_strides: Sequence[int],
  padding: Padding,
  *,
  lhs_dilation: Sequence[int] | None = None,
  rhs_dilation: Sequence[int] | None = None,
  feature_group_count: int = 1,
  precision: lax.PrecisionLike = None,
  form: _form.Form = "auto",
  grad_precision: _core.GradPrecision = "float32",
) -> jax.Array:
  """`lax.conv_general_dilated`, channels last, of float or `Quantized`.

  Forward and backward as in `dot_general`. Padding is the number 0, a third
  value beside -1 and +1: what the papers' own code computes.

  Args:
    x: (N, spatial..., C).
    w: (spatial..., C / groups, O).
    window_strides: one for each spatial axis.
    padding: "SAME", "VALID", or (low, high) for each spatial axis.
    lhs_dilation: as in `lax.conv_general_dilated`.
    rhs_dilation: as in `lax.conv_general_dilated`.
    feature_group_count: groups of channels.
    precision: of a float product.
    form: as in `dot_general`.
    grad_precision: as in `dot_general`.

  Returns:
    (N, spatial..., O), in the values' common dtype.
  """
  keywords = {
    "window_strides": tuple(window_strides),
    "padding": _fixed(padding),
    "lhs_dilation": None if lhs_dilation is None else tuple(lhs_dilation),
    "rhs_dilation": None if rhs_dilation is None else tuple(rhs_dilation),
    "feature_group_count": feature_group_count,
    "precision": precision,
  }
  geometry = _windows(
    lax.conv_general_dilated,
    keywords,
    x.ndim,
    feature_group_count,
    lhs_dilation,
  )
  return _core.product(x, w, geometry, form=form, grad_precision=grad_precision)


def conv_transpose(
  x: _core.Operand,
  w: _core.Operand,
  strides: Sequence[int],
  padding: Padding,
  *,
  rhs_dilation: Sequence[int] | None = None,
  precision: lax.PrecisionLike = None,
  form: _form.Form = "auto",
  grad_precision: _core.GradPrecision = "float32",
) -> jax.Array:
  """`lax.conv_transpose`, channels last, of float or `Quantized`.

  A convolution of stride 1 over the input with `stride - 1` zeros between its
  elements. Forward and backward as in `dot_general`.

  Args:
    x: (N, spatial..., C), one to three spatial axes.
    w: (spatial..., C, O). For the gradient of a convolution by a kernel
      (spatial..., O, C) flip its spatial axes and swap the other two first.
    strides: one for each spatial axis.
    padding: "SAME" or "VALID", those of the convolution that this one turns
      round, or (low, high) for each spatial axis, of the spread input.
    rhs_dilation: as in `lax.conv_transpose`.
    precision: of a float product.
    form: as in `dot_general`.
    grad_precision: as in `dot_general`.

  Returns:
    (N, spatial..., O), in the values' common dtype.
  """
  keywords = {
    "strides": tuple(strides),
    "padding": _fixed(padding),
    "rhs_dilation": None if rhs_dilation is None else tuple(rhs_dilation),
    "precision": precision,
  }
  geometry = _windows(lax.conv_transpose, keywords, x.ndim, 1, strides)
  return _core.product(x, w, geometry, form=form, grad_precision=grad_precision)
