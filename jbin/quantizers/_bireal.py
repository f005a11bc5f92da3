"""Bi-Real Net: signs with a piecewise linear gradient."""

from __future__ import annotations

import dataclasses

import jax

from jbin import estimators, references
from jbin.quantizers import _base


@_base.REGISTRY.register
@references.cites("bireal")
@dataclasses.dataclass(frozen=True)
class bireal(_base.Quantizer):  # noqa: N801 - named as a function is called
  """The sign, with a triangle as gradient (Bi-Real Net: activations).

  Forward `y = +1 if x >= 0 else -1`; backward `dx = dy * max(0, 2 - 2|x|)`.
  At zero: +1, and the factor 2. Its kernels are `xnor()`.

  Attributes:
    zero: the value at 0. PyTorch code has 0 there, which is no bit: products
      then take the value, not codes.

  Reference: Liu et al., 2018 (arXiv 1808.00278). Differs from the paper in
  nothing but sign(0).
  """

  bits: int = dataclasses.field(default=1, init=False, repr=False)
  zero: float = 1.0

  def quantize(self, x: jax.Array, now: _base.Now) -> _base.Quantized:
    """Signs of activations `x`, any shape."""
    codes = estimators.approx_sign(x, zero=self.zero)
    return _base.signs(codes, None, zero=self.zero)
