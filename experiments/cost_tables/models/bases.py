"""BinaryDM's weights, sums of one or two binary bases: a user's quantizer.

No gradient, as nothing here is trained: what a program costs does not depend
on it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jbin import bits, quantizers


@dataclasses.dataclass(frozen=True)
class multi_basis(quantizers.Quantizer):  # noqa: N801 - as jbin's own
  """`s1 sign(w) + s2 sign(w - s1 sign(w))`, scales for each output channel.

  It is as many bits wide as it has bases: a product with two is two products.
  """

  bits: int = 1

  def quantize(self, x: jax.Array, now: Any) -> quantizers.Quantized:
    """A kernel, its output channel last."""
    value, rest = jnp.zeros_like(x), x
    for i in range(self.bits):
      codes = bits.tag(jnp.where(rest >= 0, 1.0, -1.0), 1)
      scale = jnp.reshape(now[f"s{i + 1}"], (1,) * (x.ndim - 1) + (-1,))
      value = value + scale * codes
      rest = x - value
    return quantizers.without_codes(
      value, bits=self.bits, levels=(0, 2**self.bits - 1)
    )

  def parameters(
    self, channels: int, x: jax.Array | None = None, key: Any = None
  ) -> Mapping[str, jax.Array]:
    """The scales, one of each basis for each channel."""
    del x, key
    return {f"s{i + 1}": jnp.ones(channels) for i in range(self.bits)}
