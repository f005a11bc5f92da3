"""What methods share: centring, standardizing, magnitudes, scaling."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jbin import errors, residuals

_LARGE = 2**20  # elements
MOST = 1e15
"""What statistics see of larger magnitudes: squares and sums stay finite."""
_NOISE = 1e-5  # of a mean: less is rounding
_ROUNDED = 2.0**-21  # of a mean: what its last bits may be
_LEAST = 1e-24  # a variance whose power of -3/2 is still finite


@jax.custom_vjp
def scale_through(codes: jax.Array, scale: jax.Array) -> jax.Array:
  """`codes * scale`, the codes' gradient passing as if the scale were 1.

  Forward `y = codes * scale`, in float32, cast to the dtype of `codes`;
  backward `dcodes = dy`, `dscale = 0`. `scale` broadcasts with `codes`.
  """
  return (codes * scale).astype(codes.dtype)


def _scale_forward(
  codes: jax.Array, scale: jax.Array
) -> tuple[jax.Array, jax.Array]:
  return scale_through(codes, scale), scale


def _scale_backward(
  scale: jax.Array, g: jax.Array
) -> tuple[jax.Array, jax.Array]:
  return g, jnp.zeros_like(scale)


scale_through.defvjp(_scale_forward, _scale_backward)


def scale_signs(codes: jax.Array, *factors: jax.Array) -> jax.Array:
  """`codes` times the product of `factors`, of codes -1 and +1.

  Differentiated as it stands. The backward pass keeps the codes as bits, and
  the factors; or floats, where these are to be kept (`residuals.keeping`).
  """
  if residuals.kept() == "floats":
    return _scaled(codes, *factors)
  return _scale_signs(codes, *factors)


def _scaled(codes: jax.Array, *factors: jax.Array) -> jax.Array:
  return codes * functools.reduce(jnp.multiply, factors)


@jax.custom_vjp
def _scale_signs(codes: jax.Array, *factors: jax.Array) -> jax.Array:
  return _scaled(codes, *factors)


def _signs_forward(
  codes: jax.Array, *factors: jax.Array
) -> tuple[jax.Array, Any]:
  like = jnp.zeros((0, *codes.shape), codes.dtype)  # what it is like, no more
  kept = residuals.pack(codes > 0), like, factors
  return _scaled(codes, *factors), kept


def _signs_backward(kept: Any, g: jax.Array) -> tuple[jax.Array, ...]:
  bits, like, factors = kept
  above = residuals.unpack(bits, like.shape[-1])
  one = jnp.ones((), like.dtype)
  _, pull = jax.vjp(_scaled, jnp.where(above, one, -one), *factors)
  return pull(g)


_scale_signs.defvjp(_signs_forward, _signs_backward)


def mean_magnitude(x: jax.Array, over: Sequence[int]) -> jax.Array:
  """Mean of |x| over some axes, kept with length 1; float32, no gradient.

  A mean beyond `MOST` is that, so that a product with zero is one.

  On one CPU device groups of eight rows of a large tensor are reduced by
  `|a| + |b|` first: XLA writes |x| to memory there before it sums it, but not
  for a combiner of our own. Over several devices such a reduction cannot be
  split.
  """
  wide = jax.lax.stop_gradient(x).astype(jnp.float32)
  count = math.prod(x.shape[axis] for axis in over)
  alone = jax.default_backend() == "cpu" and jax.device_count() == 1
  if alone and 0 in over and x.size >= _LARGE and x.shape[0] % 8 == 0:
    wide = jax.lax.reduce(
      wide.reshape(-1, 8, *x.shape[1:]),
      np.float32(0),
      lambda a, b: jnp.abs(a) + jnp.abs(b),
      (1,),
    )
  return jnp.minimum(
    jnp.abs(wide).sum(tuple(over), keepdims=True) / count, MOST
  )


def other_axes(ndim: int, kept: Sequence[int]) -> tuple[int, ...]:
  """The axes of an array of rank `ndim` that are not `kept`.

  Raises:
    errors.UserError: if the array has no such axis.
  """
  if any(not -ndim <= axis < ndim for axis in kept):
    raise errors.UserError(
      f"a quantizer's axes {tuple(kept)} are not all axes of an array of rank"
      f" {ndim}; count from 0, or from -1 backwards"
    )
  keep = {axis % ndim for axis in kept}
  return tuple(axis for axis in range(ndim) if axis not in keep)


@jax.custom_vjp
def _bounded(x: jax.Array) -> jax.Array:
  return jnp.clip(x, -MOST, MOST)


def _bounded_forward(x: jax.Array) -> tuple[jax.Array, None]:
  return jnp.clip(x, -MOST, MOST), None


def _bounded_backward(_: None, g: jax.Array) -> tuple[jax.Array]:
  return (g,)


_bounded.defvjp(_bounded_forward, _bounded_backward)


def bounded(x: jax.Array) -> jax.Array:
  """`x` in float32, no larger than `MOST`; the gradient passes all over.

  So the backward pass need not keep where it was larger.
  """
  return _bounded(x.astype(jnp.float32))


def absolute(x: jax.Array) -> jax.Array:
  """|x|, whose derivative at 0 is 0, as PyTorch has it (JAX's is 1)."""
  return x * jnp.sign(jax.lax.stop_gradient(x))


def magnitude(x: jax.Array, over: Sequence[int]) -> jax.Array:
  """Mean of |x| over some axes, kept with length 1; float32, differentiable.

  Backward `dx = dy * sign(x) / n` with `sign(0) = 0`, as PyTorch has it
  (JAX's derivative of |x| at 0 is 1).
  """
  return absolute(bounded(x)).mean(tuple(over), keepdims=True)


def deviation(wide: jax.Array, mean: jax.Array) -> jax.Array:
  """`wide - mean`, 0 where that is the rounding of the mean (4 units).

  Of equal numbers it would decide the signs, and in each loop that XLA makes of
  it anew: codes and value would differ. The gradient is that of `wide - mean`.
  """
  found = wide - mean
  rounding = jnp.abs(found) <= _ROUNDED * jnp.abs(mean)
  return found - jax.lax.stop_gradient(jnp.where(rounding, found, 0.0))


def center(x: jax.Array, over: Sequence[int]) -> jax.Array:
  """`bounded(x)` minus its mean over some axes, which is differentiated too."""
  wide = bounded(x)
  return deviation(wide, wide.mean(tuple(over), keepdims=True))


def _moments(
  wide: jax.Array, over: Sequence[int], ddof: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Deviations from the mean, their variance, and where it is nothing."""
  mean = wide.mean(tuple(over), keepdims=True)
  apart = deviation(wide, mean)
  count = math.prod(wide.shape[axis] for axis in over)
  var = jnp.square(apart).sum(tuple(over), keepdims=True)
  var = var / max(count - ddof, 1)
  # The mean of equal numbers is not quite equal to them.
  least = jnp.square(_NOISE * jax.lax.stop_gradient(mean))
  return apart, var, var <= jnp.maximum(least, _LEAST)


def standardize(
  x: jax.Array,
  over: Sequence[int],
  *,
  ddof: int = 1,
  eps: float = 0.0,
  centered: bool = True,
) -> jax.Array:
  """`(x - mean) / sqrt(var + eps)` over some axes, differentiated through.

  Args:
    x: floating; the arithmetic is in float32, the result in its dtype.
    over: the axes of the mean and the variance.
    ddof: 1 for the unbiased variance, 0 for that of the population.
    eps: added to the variance. If it is 0, where all entries are equal (to
      1e-5 of their mean, or to 1e-12) the result is 0, with gradient 0; the
      papers' code divides 0 by 0.
    centered: whether the mean is taken off.
  """
  wide = bounded(x)
  apart, var, flat = _moments(wide, over, ddof)
  if eps > 0:
    inverse = jax.lax.rsqrt(var + eps)
  else:
    inverse = jnp.where(flat, 0.0, jax.lax.rsqrt(jnp.where(flat, 1.0, var)))
  return ((apart if centered else wide) * inverse).astype(x.dtype)


def spread(x: jax.Array, over: Sequence[int], *, ddof: int = 1) -> jax.Array:
  """`sqrt(var)` over some axes, kept with length 1; float32, differentiable.

  Where all entries are equal (as in `standardize`) it is 0, with gradient 0.
  """
  _, var, flat = _moments(bounded(x), over, ddof)
  return jnp.where(flat, 0.0, jnp.sqrt(jnp.where(flat, 1.0, var)))


@jax.custom_vjp
def scale_gradient(x: jax.Array, factor: jax.typing.ArrayLike) -> jax.Array:
  """`x`, whose gradient is multiplied by `factor` (which gets none)."""
  del factor
  return x


def _scale_gradient_forward(
  x: jax.Array, factor: jax.typing.ArrayLike
) -> tuple[jax.Array, jax.typing.ArrayLike]:
  return x, factor


def _scale_gradient_backward(
  factor: jax.typing.ArrayLike, g: jax.Array
) -> tuple[jax.Array, jax.Array]:
  return (g * factor).astype(g.dtype), jnp.zeros_like(factor)


scale_gradient.defvjp(_scale_gradient_forward, _scale_gradient_backward)


@jax.custom_vjp
def _straight_through(x: jax.Array, y: jax.Array) -> jax.Array:
  del x
  return y


def _straight_forward(x: jax.Array, y: jax.Array) -> tuple[jax.Array, None]:
  del x
  return y, None


def _straight_backward(
  _: None, g: jax.Array
) -> tuple[jax.Array, jax.Array | None]:
  return g, None


_straight_through.defvjp(_straight_forward, _straight_backward)


def straight_through(x: jax.Array, y: jax.Array) -> jax.Array:
  """`y`, whose gradient goes to `x` as it is (the identity estimator).

  Forward `y` in the dtype of `x`; backward `dx = dy`, and none to what `y` is
  made of. Both have one shape.
  """
  return _straight_through(x, jax.lax.stop_gradient(y).astype(x.dtype))


def initial_magnitude(
  x: jax.Array | None, kept: Sequence[int], shape: Sequence[int]
) -> jax.Array:
  """Mean of |x| over all axes but `kept`, as an array of `shape`, float32.

  Without a tensor: sqrt(2 / pi), that of a standard normal one.
  """
  if x is None:
    return jnp.full(shape, math.sqrt(2 / math.pi), jnp.float32)
  return mean_magnitude(x, other_axes(x.ndim, kept)).reshape(shape)


def along_last(values: jax.Array, ndim: int) -> jax.Array:
  """One value for each channel, (C,), to broadcast with a tensor of rank."""
  return jnp.reshape(values, (1,) * (ndim - 1) + (-1,))
