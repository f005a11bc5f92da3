"""Larq's step, BiBERT's bool: 0 and 1."""

from __future__ import annotations

import dataclasses

import jax

from jbin import estimators, references, schedules
from jbin.quantizers import _base


@_base.REGISTRY.register
@references.cites("larq", "bibert")
@dataclasses.dataclass(frozen=True)
class ste_heaviside(_base.Quantizer):  # noqa: N801 - called like a function
  """0 and 1 by the sign, scale 1 (Larq's ste_heaviside; BiBERT's bool).

  Forward `y = 1 if x > 0 else 0`; backward `dx = dy * [|x| <= clip]`.
  At zero: 0. BiBERT takes it, with the open edge, on attention scores in place
  of softmax: a `weights_quantizer` in a rule with `normalize="none"`.

  Attributes:
    clip: the half width of the gradient's window; a number or a schedule.
      None: no window.
    edge: "closed", or "open": no gradient at `|x| = clip` itself.
    zero: the value at 0; 1 is what BiBERT's paper says, its code has 0.

  References: Larq (Geiger and Team, 2020); Qin et al., 2022 (arXiv
  2203.06390). Differs from Larq in nothing that is known; from BiBERT's code
  in: the edge.
  """

  bits: int = dataclasses.field(default=1, init=False, repr=False)
  clip: schedules.Hyper | None = 1.0
  edge: estimators.Edge = "closed"
  zero: float = 0.0

  @property
  def window(self) -> schedules.Hyper | None:
    """That of the gradient."""
    return self.clip

  def quantize(self, x: jax.Array, now: _base.Now) -> _base.Quantized:
    """Codes of `x`, any shape."""
    clip = None
    if self.clip is not None:
      clip = now.value(self.clip)
    codes = estimators.ste_heaviside(x, clip, edge=self.edge, zero=self.zero)
    return _base.make(
      codes, None, bits=1, levels=(0, 1), exact=self.zero in (0, 1)
    )
