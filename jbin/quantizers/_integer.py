"""Uniform integers, their bounds measured on the tensor itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jbin import errors, references
from jbin.quantizers import _base, _parts

# No step is smaller and no bound larger: a step, its reciprocal (by which XLA
# multiplies) and the span of two bounds stay normal float32 numbers.
LEAST = float(np.sqrt(np.finfo(np.float32).tiny))
MOST = 2.0**124


def _step(extent: jax.Array, count: float) -> jax.Array:
  """`extent / count`; 1 where that is nearly nothing (a channel of zeros)."""
  step = extent / count
  return jnp.where(step < LEAST, 1.0, step)


def _grouped(
  x: jax.Array,
  axes: Sequence[int],
  group: int | None,
  rule: Callable[[jax.Array, tuple[int, ...]], _base.Quantized],
) -> _base.Quantized:
  """`rule` on `x` with the axis before the last split into groups.

  Args:
    x: floating, any shape.
    axes: the axes that keep a step of their own.
    group: entries of axis -2 that share a step; None for no groups.
    rule: a tensor and the axes that share a step, to its quantized form.

  Raises:
    errors.UserError: if the groups do not fill the axis, or the axis keeps
      a step for each entry anyway.
  """
  over = _parts.other_axes(x.ndim, axes)
  if group is None:
    return rule(x, over)
  if x.ndim < 2 or x.ndim - 2 not in over or x.shape[-2] % group:
    raise errors.UserError(
      f"groups of {group} along the last axis but one of an array {x.shape}"
      f" with axes={tuple(axes)}: that axis must exist, not be one of the axes,"
      " and have a multiple of the group's length"
    )
  # (..., in, out) to (..., in / group, group, out): all later axes move by one.
  split = x.ndim - 2
  shape = (*x.shape[:split], x.shape[-2] // group, group, x.shape[-1])
  inner = tuple(axis + (axis >= split) for axis in over)
  found = rule(x.reshape(shape), inner)

  def back(part: jax.Array | None) -> jax.Array | None:
    """A part of the result in the shape of `x`; a step once for each row."""
    if part is None:
      return None
    wide = list(part.shape)
    wide[split + 1] = group
    last = wide.pop()
    spread = jnp.broadcast_to(part, (*wide, last))
    return spread.reshape(*wide[:split], -1, last)

  return dataclasses.replace(
    found,
    value=found.value.reshape(x.shape),
    codes=back(found.codes),
    scale=back(found.scale),
  )


def _check_group(name: str, group: int | None) -> None:
  if group is not None and (not isinstance(group, int) or group < 1):
    raise errors.UserError(
      f"{name}: group must be a positive integer or None, got {group!r}"
    )


@_base.REGISTRY.register
@references.cites("integer_only")
@dataclasses.dataclass(frozen=True)
class absmax(_base.Quantizer):  # noqa: N801 - called like a function
  """Symmetric integers of 2 to 8 bits, scaled by the largest magnitude.

  `L = 2^(p-1) - 1`, `s = max|x| / L` over what shares a step, constant for
  the gradient; forward `y = s * round(x / s)`, ties to even; backward
  `dx = dy` (nothing is outside the range). At zero: 0. A channel of zeros
  stays zeros; where `s` would be below 1e-19 it is 1, and a bound beyond 2^124
  is that.

  Attributes:
    bits: the width, 2 to 8.
    axes: the axes that keep a step of their own. (-1,): each output channel
      of a kernel. (0,): each example. (): one step for the tensor.
    group: entries of the last axis but one (a kernel's input features) that
      share a step, for each of the `axes`; its length must be a multiple. Such
      a step cannot be taken out of a product, which takes the value. None: no
      groups.
    half_step: the bound lies half a step beyond L: `s = max|x| / (L + 1/2)`,
      codes from -L - 1 to L, as Qwix has its int2 to int8.

  Raises:
    errors.UserError: if the groups do not fit the tensor.

  Reference: Jacob et al., 2018 (arXiv 1712.05877). Differs from the paper in:
  the bound is that of the tensor at hand, not a running one.
  """

  bits: int = 8
  axes: tuple[int, ...] = (-1,)
  group: int | None = None
  half_step: bool = False
  widths = (2, 8)

  def __post_init__(self) -> None:
    """Checks the group."""
    super().__post_init__()
    _check_group("absmax", self.group)

  def quantize(self, x: jax.Array, now: _base.Now) -> _base.Quantized:
    """Quantizes `x`, any shape that has the `axes`."""
    return _grouped(x, self.axes, self.group, self._quantize)

  def _quantize(self, x: jax.Array, over: tuple[int, ...]) -> _base.Quantized:
    high = 2 ** (self.bits - 1) - 1
    low, bound = (-high - 1, high + 0.5) if self.half_step else (-high, high)
    wide = jax.lax.stop_gradient(x).astype(jnp.float32)
    largest = jnp.minimum(jnp.abs(wide).max(over, keepdims=True), MOST)
    step = _step(largest, bound)
    codes = jnp.clip(jnp.round(wide / step), low, high)
    return _base.make(
      _parts.straight_through(x, codes),
      step,
      bits=self.bits,
      levels=(low, high),
    )


@_base.REGISTRY.register
@references.cites("integer_only")
@dataclasses.dataclass(frozen=True)
class minmax(_base.Quantizer):  # noqa: N801 - called like a function
  """Integers of 2 to 8 bits between the least and the greatest entry.

  `l = min(x, 0)`, `h = max(x, 0)` over what shares a step, `n = 2^p - 1`,
  `s = (h - l) / n`, all constant for the gradient; the zero point
  `z = round(-l / s)`, an integer from 0 to n; forward
  `y = s * (clip(round(x / s + z), 0, n) - z)`, ties to even; backward
  `dx = dy`. At zero: 0 exactly, since z is an integer. Where `s` would be
  below 1e-19 (a row of zeros) it is 1, and a bound beyond 2^124 is that. The
  codes are those without z.

  Attributes:
    bits: the width, 2 to 8. The codes of one row span `2^p - 1` steps, from -z
      to `2^p - 1 - z`; `levels` are those of any z.
    axes: the axes that keep a step and a zero point of their own. (-1,): each
      output channel of a kernel. (0,): each example. (): one for the tensor.
    group: entries of the last axis but one that share them, as in `absmax`.

  Raises:
    errors.UserError: if the groups do not fit the tensor.

  Reference: Jacob et al., 2018 (arXiv 1712.05877). Differs from the paper in:
  the bounds are those of the tensor at hand, not running ones.
  """

  bits: int = 8
  axes: tuple[int, ...] = (-1,)
  group: int | None = None
  widths = (2, 8)

  def __post_init__(self) -> None:
    """Checks the group."""
    super().__post_init__()
    _check_group("minmax", self.group)

  def quantize(self, x: jax.Array, now: _base.Now) -> _base.Quantized:
    """Quantizes `x`, any shape that has the `axes`."""
    return _grouped(x, self.axes, self.group, self._quantize)

  def _quantize(self, x: jax.Array, over: tuple[int, ...]) -> _base.Quantized:
    count = 2**self.bits - 1
    # Codes around zero, -2^(p-1) upwards: float32 rounds them the least.
    least = -(2.0 ** (self.bits - 1))
    wide = jax.lax.stop_gradient(x).astype(jnp.float32)
    low = jnp.clip(wide.min(over, keepdims=True), -MOST, 0.0)
    high = jnp.clip(wide.max(over, keepdims=True), 0.0, MOST)
    step = _step(high - low, count)
    zero = jnp.clip(jnp.round(least - low / step), least, least + count)
    codes = jnp.clip(jnp.round(wide / step + zero), least, least + count) - zero
    return _base.make(
      _parts.straight_through(x, codes),
      step,
      bits=self.bits,
      levels=(-count, count),
    )
