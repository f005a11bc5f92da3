"""Attention of one bit, {0, 1}: quantizers of a user's own.

They have no gradient, for nothing here is trained: what a program costs does
not depend on it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jbin import bits, quantizers


def _quantized(keep: jax.Array, dtype: Any) -> quantizers.Quantized:
  value = bits.tag(keep.astype(dtype), 1)
  codes = bits.tag(keep.astype(jnp.int8), 1)
  return quantizers.Quantized(value, codes, None, 1, (0, 1))


@dataclasses.dataclass(frozen=True)
class share_of_max(quantizers.Quantizer):  # noqa: N801 - as jbin's own
  """BiViT: 1 where a probability is a quarter of its row's largest or more."""

  bits: int = dataclasses.field(default=1, init=False)
  share: float = 0.25

  def quantize(self, x: jax.Array, now: Any) -> quantizers.Quantized:
    """Rows are along the last axis."""
    del now
    return _quantized(x >= self.share * x.max(-1, keepdims=True), x.dtype)


@dataclasses.dataclass(frozen=True)
class positive(quantizers.Quantizer):  # noqa: N801
  """BiBERT: 1 where a score is zero or more."""

  bits: int = dataclasses.field(default=1, init=False)

  def quantize(self, x: jax.Array, now: Any) -> quantizers.Quantized:
    """Any shape."""
    del now
    return _quantized(x >= 0, x.dtype)
