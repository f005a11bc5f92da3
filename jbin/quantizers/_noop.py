"""Larq's NoOp: a tag."""

from __future__ import annotations

import dataclasses

import jax

from jbin import references
from jbin.quantizers import _base


@_base.REGISTRY.register
@references.cites("larq", "bop")
@dataclasses.dataclass(frozen=True)
class noop(_base.Quantizer):  # noqa: N801 - named as a function is called
  """The tensor as it is, tagged with a width (Larq's NoOp).

  Forward `y = x`, backward `dx = dy`. For tensors that are low-bit already:
  weights that Bop trains are +-1 at every step. That they are is the user's
  word: nothing is rounded, and products take the value.

  Attributes:
    bits: the width that the cost report sees, 1 to 8.

  At zero: 0. Reference: Helwegen et al., 2019 (arXiv 1906.02107); Larq.
  Differs from Larq in nothing that is known.
  """

  bits: int = 1

  def quantize(self, x: jax.Array, now: _base.Now) -> _base.Quantized:
    """`x`, of any shape, with a tag."""
    half = 2 ** (self.bits - 1)
    levels = (-1, 1) if self.bits == 1 else (-half, half - 1)
    return _base.without_codes(x, bits=self.bits, levels=levels)
