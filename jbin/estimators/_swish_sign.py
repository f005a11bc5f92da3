"""The SwishSign of BNN+."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jbin import references
from jbin.estimators import _base
from jbin.estimators._ste_sign import sign

_FLAT = 100.0  # beyond it the slope is below float32's least number
_LARGEST = float(jnp.finfo(jnp.float32).max)


def _finite(x: jax.Array) -> jax.Array:
  return jnp.clip(x.astype(jnp.float32), -_LARGEST, _LARGEST)


def _slope(u: jax.Array) -> jax.Array:
  """`(2 - u tanh(u/2)) / (1 + cosh u)`, without its overflows."""
  size = jnp.minimum(jnp.abs(u), _FLAT)
  decay = jnp.exp(-size)
  tanh = (1 - decay) / (1 + decay)
  return 2 * decay * (2 - size * tanh) / jnp.square(1 + decay)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _swish_sign(x: jax.Array, beta: jax.Array, zero: float) -> jax.Array:
  del beta
  return sign(x, zero)


def _forward(
  x: jax.Array, beta: jax.Array, zero: float
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  return sign(x, zero), (x, beta)


def _backward(
  zero: float, kept: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
  del zero
  x, beta = kept
  wide = _finite(x)
  slope = g * _slope(beta * wide)
  _, to_beta = jax.vjp(lambda beta: jnp.broadcast_to(beta, x.shape), beta)
  # A slope of 0 at an infinite x: 0 times the largest number is 0.
  (dbeta,) = to_beta(slope * wide)
  return (beta * slope).astype(g.dtype), dbeta


_swish_sign.defvjp(_forward, _backward)


@_base.REGISTRY.register
@references.cites("bnnplus")
def swish_sign(
  x: jax.Array, beta: float | jax.Array = 5.0, *, zero: float = 1.0
) -> jax.Array:
  """Sign with the gradient of a swish-shaped curve (BNN+).

  Forward `y = +1 if x >= 0 else -1`; backward, with `u = beta x` and
  `s(u) = (2 - u tanh(u/2)) / (1 + cosh u)`: `dx = dy * beta * s(u)` and
  `dbeta = sum dy * x * s(u)`, the gradients of
  `2 sigmoid(u) (1 + u (1 - sigmoid(u))) - 1`. The factor is `beta` at zero,
  below zero from `|u| = 2.4` on, and 0 at infinity.
  At zero: `y = +1`, unless `zero` says otherwise.

  Args:
    x: floating, any shape; the result has its shape and dtype.
    beta: the sharpness, positive; a number or an array that broadcasts with
      `x`. Learned in BNN+, so it has a gradient; 5 is Larq's choice.
    zero: the value at 0 and -0.

  The residual is `x`. Reference: Darabi et al., BNN+, 2018 (arXiv 1812.11800).
  Differs from Larq's code in: no NaN at infinity.
  """
  return _swish_sign(x, jnp.asarray(beta, jnp.float32), zero)
