"""BiViT's binary weights: signs about each row's mean, a learned scale."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import jax

from jbin import estimators, references
from jbin.quantizers import _base, _parts


def row_signs(
  x: jax.Array, over: Sequence[int], edge: estimators.Edge, zero: float
) -> jax.Array:
  """Signs of `x` about its mean over some axes; BiViT and BiBERT share it.

  Forward `y = sign(v)`, `v = x - mean(x)`; backward `dv = dy * [|v| <= 1]`
  (`< 1` if `edge="open"`), and the mean is differentiated:
  `dx = dv - mean(dv)`. float32.
  """
  centered = _parts.center(x, over)
  return estimators.ste_sign(centered, 1.0, edge=edge, zero=zero)


@_base.REGISTRY.register
@references.cites("bivit")
@dataclasses.dataclass(frozen=True)
class bivit_weight(_base.Quantizer):  # noqa: N801 - called like a function
  """Signs about each channel's mean, times a learned scale (BiViT).

  `v = w - mean(w)` over all axes but the last, forward `y = s * sign(v)`;
  backward `dv = s * dy * [|v| < 1]` (open), `dw = dv - mean(dv)` and
  `ds = sum dy * sign(v)`. Where `v` is zero: `+s`.
  The learned `alpha` (channels,), the paper's s, starts at `mean|w|` of each
  channel, not centred.

  Attributes:
    learned: whether the scale is learned; if not, it is `mean|w|`, constant
      for the gradient, which keeps the factor.
    zero: the sign at 0; PyTorch has 0.0, which is no bit: products then take
      the value.

  Reference: He et al., 2023 (arXiv 2211.07091). Differs from the code in:
  sign(0) = +1; the scale starts from the kernel at creation, not at the
  first call.
  """

  bits: int = dataclasses.field(default=1, init=False, repr=False)
  learned: bool = True
  zero: float = 1.0

  def quantize(self, x: jax.Array, now: _base.Now) -> _base.Quantized:
    """Binarizes a kernel `x` whose last axis is the output channel."""
    over = _parts.other_axes(x.ndim, (-1,))
    scale = (
      _parts.along_last(now["alpha"], x.ndim)
      if self.learned
      else _parts.mean_magnitude(x, over)
    )
    return _base.signs(
      row_signs(x, over, "open", self.zero),
      scale,
      dtype=x.dtype,
      keep_scale=True,
      zero=self.zero,
    )

  def parameters(
    self,
    channels: int,
    x: jax.Array | None = None,
    key: jax.Array | None = None,
  ) -> Mapping[str, jax.Array]:
    """The scale, from the kernel's mean magnitudes."""
    del key
    if not self.learned:
      return {}
    return {"alpha": _parts.initial_magnitude(x, (-1,), (channels,))}

  @property
  def calibrates(self) -> bool:
    """Whether there is a scale that starts from the kernel."""
    return self.learned
