"""Ternary Weight Networks."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from jbin import estimators, references, schedules
from jbin.quantizers import _base, _parts


@_base.REGISTRY.register
@references.cites("twn")
@dataclasses.dataclass(frozen=True)
class twn(_base.Quantizer):  # noqa: N801 - named as a function is called
  """-1, 0 and +1 times the mean magnitude of what is kept (TWN).

  `D = threshold * mean |w|`, `t = [w > D] - [w < -D]`, `s` the mean of |w|
  where `t` is not 0; forward `y = s t`, backward `dw = dy`: D and s are
  constant for the gradient. At zero and at `|w| = D`: 0. All-zero weights have
  scale 0.

  Attributes:
    axes: the axes that keep a threshold and a scale of their own: (), one for
      the tensor, as the authors' code has it; (-1,), for each output channel.
    threshold: the share of the mean magnitude; a number or a schedule.

  Reference: Li et al., 2016 (arXiv 1605.04711). Differs from the code in: no
  1e-6 in the scale's denominator, which it has on a GPU only.
  """

  bits: int = dataclasses.field(default=2, init=False, repr=False)
  axes: tuple[int, ...] = ()
  threshold: schedules.Hyper = 0.7

  def quantize(self, x: jax.Array, now: _base.Now) -> _base.Quantized:
    """Ternary weights from `x`, any shape that has the `axes`."""
    over = _parts.other_axes(x.ndim, self.axes)
    share = now.value(self.threshold)
    threshold = share * _parts.mean_magnitude(x, over)
    codes = estimators.ste_tern(x, threshold, None, keep_ties=False)
    kept = jnp.abs(jax.lax.stop_gradient(codes)).astype(jnp.float32)
    size = jnp.abs(jax.lax.stop_gradient(_parts.bounded(x)))
    count = jnp.maximum(kept.sum(over, keepdims=True), 1.0)
    scale = jnp.where(kept > 0, size, 0).sum(over, keepdims=True) / count
    return _base.make(codes, scale, bits=2, levels=(-1, 1), dtype=x.dtype)
