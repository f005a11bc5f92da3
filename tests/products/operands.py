"""Operands of every kind, and the float product that all must equal."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jbin import quantizers
from jbin.quantizers import Quantized

Make = Callable[[jax.Array], Any]


def _float(x):
  return x


# For the left operand: its axis 0 is an example.
LEFT: dict[str, Make] = {
  "float": _float,
  "sign": quantizers.sign(),
  "one scale": quantizers.absmax(8, ()),
  "scale per example": quantizers.absmax(4, (0,)),
  "scaled bits per example": quantizers.xnor((0,)),
  "scale per channel": quantizers.absmax(8, (-1,)),
  "scale per example and channel": quantizers.xnor((0, -1)),
  "unsigned": quantizers.dorefa_activation(4),
  "unsigned 8 bits": quantizers.dorefa_activation(8),
  "unsigned bit": quantizers.dorefa_activation(1),
  "no codes": lambda x: quantizers.gate(
    jnp.asarray(True), quantizers.absmax(4)(x), x
  ),
}
# For the right operand: its last axis is the output channel.
RIGHT: dict[str, Make] = {
  "float": _float,
  "sign": quantizers.sign(),
  "scale per channel": quantizers.xnor(),
  "one scale": quantizers.xnor(()),
  "two bits": quantizers.dorefa_weight(2),
  "wide codes": quantizers.dorefa_weight(8),
  "eight bits": quantizers.absmax(8),
  "scale per first axis": quantizers.xnor((0,)),
  "no codes": lambda w: quantizers.gate(
    jnp.asarray(True), quantizers.poke_weight(1)(w), w
  ),
}
WIDE = ("unsigned 8 bits", "wide codes")


def random(shape, seed, dtype=jnp.float32):
  """Standard normal."""
  x = np.random.default_rng(seed).normal(size=shape)
  return jnp.asarray(x, jnp.float32).astype(dtype)


def with_value(operand: Any, value: jax.Array) -> Any:
  """The operand with another float value: what its gradient is taken in."""
  if isinstance(operand, Quantized):
    return dataclasses.replace(operand, value=value)
  return value


def value_of(operand: Any) -> jax.Array:
  """What a float product takes."""
  return operand.value if isinstance(operand, Quantized) else operand


def pulled(product, x, w, g):
  """The product, and the cotangents of both operands' values for `g`."""
  y, pull = jax.vjp(
    lambda xv, wv: product(with_value(x, xv), with_value(w, wv)),
    value_of(x),
    value_of(w),
  )
  return y, *pull(g.astype(y.dtype))


def compare(got, want, tolerance, names=("y", "dx", "dw")):
  """Arrays, relative to the greatest entry of each."""
  for name, mine, right in zip(names, got, want, strict=True):
    assert mine.dtype == right.dtype, name
    assert mine.shape == right.shape, name
    right = np.asarray(right, np.float32)
    np.testing.assert_allclose(
      np.asarray(mine, np.float32),
      right,
      rtol=tolerance,
      atol=tolerance * float(abs(right).max(initial=1e-30)),
      err_msg=name,
    )
