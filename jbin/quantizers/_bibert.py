"""BiBERT's binary weights and embeddings: signs about each row's mean."""

from __future__ import annotations

import dataclasses

import jax

from jbin import references
from jbin.quantizers import _base, _bivit, _parts


@_base.REGISTRY.register
@references.cites("bibert")
@dataclasses.dataclass(frozen=True)
class bibert_weight(_base.Quantizer):  # noqa: N801 - called like a function
  """Signs about each row's mean, times its mean magnitude (BiBERT).

  `v = w - mean(w)`, `s = mean|w|` (not centred), both over all axes but
  `axes`; forward `y = s * sign(v)`; backward `dv = dy * [|v| <= 1]` (closed,
  without the factor `s`), `dw = dv - mean(dv)`. Where `v` is zero: `+s`.

  Attributes:
    axes: the axes that keep a mean of their own. (-1,): each output channel of
      a kernel, a row of BiBERT's. (0,): each token of an embedding's table.
    zero: the sign at 0; PyTorch has 0.0, which is no bit: products then take
      the value.

  BiBERT's inputs are `sign(zero=0.0)`; queries, keys and values
  `sign(edge="open", zero=0.0)`.
  Reference: Qin et al., 2022 (arXiv 2203.06390). Differs from the code in:
  sign(0) = +1.
  """

  bits: int = dataclasses.field(default=1, init=False, repr=False)
  axes: tuple[int, ...] = (-1,)
  zero: float = 1.0

  def quantize(self, x: jax.Array, now: _base.Now) -> _base.Quantized:
    """Binarizes `x`, any shape that has the `axes`."""
    over = _parts.other_axes(x.ndim, self.axes)
    return _base.signs(
      _bivit.row_signs(x, over, "closed", self.zero),
      _parts.mean_magnitude(x, over),
      dtype=x.dtype,
      zero=self.zero,
    )
