"""Larq's ternary quantizer."""

from __future__ import annotations

import dataclasses

import jax

from jbin import estimators, references, schedules
from jbin.quantizers import _base, _parts

SHARE = 0.7  # of the mean magnitude: Ternary Weight Networks' threshold


@_base.REGISTRY.register
@references.cites("larq", "twn")
@dataclasses.dataclass(frozen=True)
class ste_tern(_base.Quantizer):  # noqa: N801 - named as a function is called
  """-1, 0 and +1 by a threshold, scale 1 (Larq's ste_tern).

  Forward `y = sign(x)` where `|x| >= D`, else 0; backward
  `dx = dy * [|x| <= clip]`. At zero: 0. At `|x| = D`: +-1.

  Attributes:
    threshold: D; a number or a schedule.
    ternary_weight_networks: `D = 0.7 mean |x|` over the tensor instead,
      constant for the gradient.
    clip: the half width of the gradient's window; a number or a schedule.
      None: no window.
    keep_ties: whether an entry on the threshold keeps its sign, as Larq's code
      has it; its documentation says it becomes 0.

  Reference: Larq (Geiger and Team, 2020). Differs from it in nothing that is
  known.
  """

  bits: int = dataclasses.field(default=2, init=False, repr=False)
  threshold: schedules.Hyper = 0.05
  ternary_weight_networks: bool = False
  clip: schedules.Hyper | None = 1.0
  keep_ties: bool = True

  @property
  def window(self) -> schedules.Hyper | None:
    """That of the gradient."""
    return self.clip

  def quantize(self, x: jax.Array, now: _base.Now) -> _base.Quantized:
    """Ternary codes of `x`, any shape."""
    if self.ternary_weight_networks:
      threshold = SHARE * _parts.mean_magnitude(x, range(x.ndim))
    else:
      threshold = now.value(self.threshold)
    clip = self.clip
    if clip is not None:
      clip = now.value(clip)
    codes = estimators.ste_tern(x, threshold, clip, keep_ties=self.keep_ties)
    return _base.make(codes, None, bits=2, levels=(-1, 1))
