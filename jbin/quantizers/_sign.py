"""BinaryNet: plain signs."""

from __future__ import annotations

import dataclasses

import jax

from jbin import estimators, references, schedules
from jbin.quantizers import _base


@_base.REGISTRY.register
@references.cites("binarynet")
@dataclasses.dataclass(frozen=True)
class sign(_base.Quantizer):  # noqa: N801 - named as a function is called
  """The sign, scale 1 (BinaryNet: weights and activations).

  Forward `y = +1 if x >= 0 else -1`; backward `dx = dy * [|x| <= clip]`.
  At zero: +1. Reference: Hubara et al., 2016 (arXiv 1602.02830). Differs from
  the code in: sign(0), an option.

  Attributes:
    clip: the half width of the gradient's window; a number or a schedule.
      None: no window.
    edge: "closed", or "open": no gradient at `|x| = clip` itself, as BiBench's
      linear layers of DoReFa and XNOR-Net++ have it for their inputs.
    zero: the value at 0. PyTorch code has 0 there, which is no bit: products
      then take the value, not codes.
  """

  bits: int = dataclasses.field(default=1, init=False, repr=False)
  clip: schedules.Hyper | None = 1.0
  edge: estimators.Edge = "closed"
  zero: float = 1.0

  @property
  def window(self) -> schedules.Hyper | None:
    """That of the gradient."""
    return self.clip

  def quantize(self, x: jax.Array, now: _base.Now) -> _base.Quantized:
    """Signs of `x`, any shape."""
    clip = None
    if self.clip is not None:
      clip = now.value(self.clip)
    keep = now.keep
    codes = estimators.ste_sign(
      x, clip, edge=self.edge, zero=self.zero, keep=keep
    )
    return _base.signs(codes, None, zero=self.zero)
