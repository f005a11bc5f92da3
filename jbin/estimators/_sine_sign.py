"""The square wave of BiPer."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jbin import references
from jbin.estimators import _base
from jbin.estimators._ste_sign import sign


def phase(x: jax.Array, omega: jax.Array) -> jax.Array:
  """`omega x` in float32; 0 where that is no number or infinite."""
  turned = omega * x.astype(jnp.float32)
  return jnp.where(jnp.isfinite(turned), turned, 0.0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _sine_sign(x: jax.Array, omega: jax.Array, zero: float) -> jax.Array:
  return sign(jnp.sin(phase(x, omega)), zero).astype(x.dtype)


def _forward(
  x: jax.Array, omega: jax.Array, zero: float
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  y: jax.Array = _sine_sign(x, omega, zero)
  return y, (x, omega)


def _backward(
  zero: float, kept: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
  del zero
  x, omega = kept
  finite = jnp.isfinite(omega * x.astype(jnp.float32))
  factor = jnp.where(finite, omega * jnp.cos(phase(x, omega)), 0.0)
  return (g * factor).astype(g.dtype), jnp.zeros_like(omega)


_sine_sign.defvjp(_forward, _backward)


@_base.REGISTRY.register
@references.cites("biper")
def sine_sign(
  x: jax.Array, omega: float | jax.Array, *, zero: float = 1.0
) -> jax.Array:
  """Sign of a sine, with the sine's gradient (BiPer).

  Forward `y = +1 if sin(omega x) >= 0 else -1`; backward
  `dx = dy * omega * cos(omega x)`: identity through the sign, and zero in the
  middle of each plateau. At zero: `y = +1`, unless `zero` says otherwise (the
  code has 0); the other zeros of the sine are met by no float.

  Args:
    x: floating, any shape; the result has its shape and dtype.
    omega: the frequency; a number, or an array that broadcasts with `x`
      (scalar or same rank). Gets no gradient.
    zero: the value where the sine is 0.

  The residual is `x`; `omega x` is rounded to float32 before the sine. Where
  it is infinite `y = zero`, with gradient 0. Reference: Vargas et al., BiPer,
  2024 (arXiv 2404.01278). Differs from the code in nothing but sign(0).
  """
  return _sine_sign(x, jnp.asarray(omega, jnp.float32), zero)
