"""The sign with a gradient factor given as a formula of the input."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jbin.estimators._ste_sign import sign

Options = tuple[jax.Array, ...]
Factor = Callable[..., jax.Array]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 3))
def _sign_with(
  factor: Factor, x: jax.Array, options: Options, zero: float
) -> jax.Array:
  del factor, options
  return sign(x, zero)


def _forward(
  factor: Factor, x: jax.Array, options: Options, zero: float
) -> tuple[jax.Array, tuple[jax.Array, Options]]:
  del factor
  return sign(x, zero), (x, options)


def _backward(
  factor: Factor, zero: float, kept: tuple[jax.Array, Options], g: jax.Array
) -> tuple[jax.Array, Options]:
  del zero
  x, options = kept
  dx = (g * factor(x.astype(jnp.float32), *options)).astype(g.dtype)
  return dx, tuple(jnp.zeros_like(option) for option in options)


_sign_with.defvjp(_forward, _backward)


def sign_with(
  factor: Factor,
  x: jax.Array,
  options: tuple[float | jax.Array, ...],
  zero: float,
) -> jax.Array:
  """`sign(x)` whose gradient is `dy * factor(x, *options)`.

  Args:
    factor: a module's function (it is compared by identity) of float32 arrays.
    x: floating, any shape; also what the backward pass keeps.
    options: numbers or arrays that broadcast with `x` (scalar or same rank);
      traced, so that a new value compiles nothing, and without gradient.
    zero: the value at 0 and -0.
  """
  traced = tuple(jnp.asarray(option, jnp.float32) for option in options)
  return _sign_with(factor, x, traced, zero)


def sharpness(
  t: float | jax.Array, k: float | jax.Array | None
) -> tuple[jax.Array, jax.Array]:
  """An estimator's t and k as arrays; k defaults to `max(1 / t, 1)`."""
  t = jnp.asarray(t, jnp.float32)
  return t, jnp.maximum(1 / t, 1.0) if k is None else jnp.asarray(k)
