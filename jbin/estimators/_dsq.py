"""The staircase of Differentiable Soft Quantization."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jbin import errors, references
from jbin.estimators import _base

_TINY = 1e-12  # the least width of the range, where high meets low
_ALPHA = (1e-4, 1 - 1e-4)
Ends = tuple[jax.Array, jax.Array, jax.Array]


def _place(
  x: jax.Array, ends: Ends, steps: int
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """Whether x is inside; the step; x in steps; the interval it is in."""
  low, high, _ = ends
  inside = (x >= low) & (x <= high)
  step = jnp.maximum(high - low, _TINY) / steps
  t = (jnp.where(inside, x, low) - low) / step
  interval = jnp.minimum(jnp.floor(jax.lax.stop_gradient(t)), steps - 1)
  return inside, step, t, interval


def _with_ends(
  x: jax.Array, ends: Ends, inside: jax.Array, value: jax.Array
) -> jax.Array:
  low, high, _ = ends
  return jnp.where(inside, value, jnp.where(x < low, low, high))


def soft_staircase(x: jax.Array, ends: Ends, steps: int) -> jax.Array:
  """The curve whose gradient `dsq` has; float32."""
  inside, step, t, interval = _place(x, ends, steps)
  low, _, alpha = ends
  sharpness = jnp.log(2 / alpha - 1)
  phi = jnp.tanh(sharpness * (t - interval - 0.5)) / (1 - alpha)
  soft = low + step * (interval + (phi + 1) / 2)
  return _with_ends(x, ends, inside, soft)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _dsq(x: jax.Array, ends: Ends, steps: int) -> jax.Array:
  wide = x.astype(jnp.float32)
  inside, step, t, interval = _place(wide, ends, steps)
  hard = ends[0] + step * (interval + (t - interval >= 0.5))
  return _with_ends(wide, ends, inside, hard).astype(x.dtype)


def _forward(
  x: jax.Array, ends: Ends, steps: int
) -> tuple[jax.Array, tuple[jax.Array, Ends]]:
  y: jax.Array = _dsq(x, ends, steps)
  return y, (x, ends)


def _backward(
  steps: int, kept: tuple[jax.Array, Ends], g: jax.Array
) -> tuple[jax.Array, Ends]:
  x, (low, high, alpha) = kept
  # Outside (0, 1) there is no curve; its gradient there is that of the bound,
  # so that alpha can come back.
  ends = (low, high, jnp.clip(alpha, *_ALPHA))
  _, pull = jax.vjp(
    lambda x, ends: soft_staircase(x, ends, steps),
    x.astype(jnp.float32),
    ends,
  )
  dx, dends = pull(g.astype(jnp.float32))
  return dx.astype(g.dtype), dends


_dsq.defvjp(_forward, _backward)


@_base.REGISTRY.register
@references.cites("dsq")
def dsq(
  x: jax.Array,
  low: float | jax.Array,
  high: float | jax.Array,
  alpha: float | jax.Array = 0.2,
  *,
  bits: int = 1,
) -> jax.Array:
  """A uniform staircase with the gradient of a soft one (DSQ).

  `D = (high - low) / (2^bits - 1)`, `t = (x - low) / D` lies in interval
  `i = floor(t)`, at most `2^bits - 2`. Soft curve:
  `low + D (i + (phi + 1) / 2)`, `phi = tanh(k (t - i - 1/2)) / (1 - alpha)`,
  `k = log(2 / alpha - 1)`; forward the same with the sign of phi (+1 at the
  middle of an interval); backward the soft curve's gradients with respect to
  x, low, high and alpha. Outside [low, high]: the end, to which the gradient
  goes. On an end x has the gradient. At zero: +D/2 where low = -high.

  Args:
    x: floating, any shape; the result has its shape and dtype.
    low: the least level; a number or an array that broadcasts with `x`.
    high: the greatest level, above `low`; in the same forms.
    alpha: 0 is the staircase, 1 a line; taken within 1e-4 of (0, 1), in the
      same forms.
    bits: the width, at least 1.

  Raises:
    errors.UserError: if bits is below 1.

  The residual is `x`; the arithmetic is in float32. Reference: Gong et al.,
  Differentiable Soft Quantization, 2019 (arXiv 1908.05033). Differs from the
  paper in nothing that is known; no official code was at hand.
  """
  if bits < 1:
    raise errors.UserError(f"dsq: bits must be at least 1, got {bits}")
  ends = tuple(jnp.asarray(part, jnp.float32) for part in (low, high, alpha))
  return _dsq(x, ends, 2**bits - 1)
