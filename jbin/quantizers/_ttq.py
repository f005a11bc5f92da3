"""Trained Ternary Quantization."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jbin import estimators, references, schedules
from jbin.quantizers import _base, _parts


@_base.REGISTRY.register
@references.cites("ttq")
@dataclasses.dataclass(frozen=True)
class ttq(_base.Quantizer):  # noqa: N801 - named as a function is called
  """-Wn, 0 and +Wp, both learned (TTQ).

  `D = threshold * max |w|` over the tensor; forward `y = +Wp` where `w > D`,
  `-Wn` where `w < -D`, else 0; backward `dw = dy * (Wp, Wn, 1)` in these three
  regions, `dWp = sum dy` over the first, `dWn = -sum dy` over the second; D is
  constant. At zero and at `|w| = D`: 0. The two levels differ, so there are no
  codes: products take the value.

  Attributes:
    threshold: the share of the greatest magnitude; a number or a schedule.

  Wp and Wn are two scalars of the tensor, 1 at the start. Reference: Zhu et
  al., 2017 (arXiv 1612.01064). Differs from the paper in: it starts from a
  trained net whose weights are normalized to [-1, 1]; nothing does that here.
  """

  bits: int = dataclasses.field(default=2, init=False, repr=False)
  threshold: schedules.Hyper = 0.05

  def parameters(
    self,
    channels: int,
    x: jax.Array | None = None,
    key: jax.Array | None = None,
  ) -> Mapping[str, jax.Array]:
    """`positive` and `negative`, Wp and Wn, of shape (1,): 1."""
    del channels, x, key
    return {name: jnp.ones(1) for name in ("positive", "negative")}

  def quantize(self, x: jax.Array, now: _base.Now) -> _base.Quantized:
    """Ternary weights from `x`, any shape."""
    positive, negative = (
      jnp.reshape(now[name], (1,) * x.ndim) for name in ("positive", "negative")
    )
    wide = x.astype(jnp.float32)
    largest = jnp.abs(jax.lax.stop_gradient(wide)).max(keepdims=True)
    threshold = now.value(self.threshold) * largest
    codes = estimators.ste_tern(wide, threshold, None, keep_ties=False)
    at = jax.lax.stop_gradient(codes)

    def choose(above: jax.Array, below: jax.Array, middle: float) -> jax.Array:
      return jnp.where(at > 0, above, jnp.where(at < 0, below, middle))

    factor = jax.lax.stop_gradient(choose(positive, negative, 1.0))
    # Zero, with the gradient of w.
    through = _parts.scale_gradient(codes, factor) - at
    value = choose(positive, -negative, 0.0) + through
    return _base.without_codes(value.astype(x.dtype), bits=2, levels=(-1, 1))
