"""Differentiable Soft Quantization."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jbin import bits as bits_lib, estimators, references
from jbin.quantizers import _base, _parts

_SPREAD = 3.0  # of a standard normal tensor, where there is none to look at


@_base.REGISTRY.register
@references.cites("dsq")
@dataclasses.dataclass(frozen=True)
class dsq(_base.Quantizer):  # noqa: N801 - named as a function is called
  """Uniform levels between learned ends, with a soft staircase's gradient.

  Forward: the nearest of the `2^bits` levels from `low` to `high`, ties up;
  backward the derivatives of DSQ's soft staircase with respect to x, low, high
  and alpha, as in `estimators.dsq`; outside, the gradient goes to the end. At
  zero: the level nearest to 0, the upper one at a tie. Levels begin at `low`,
  which is an offset: products take the value.

  Attributes:
    bits: the width, 1 to 8.
    low: the least level at the start; None: the least entry of the tensor.
    high: the greatest; None: the greatest entry.
    alpha: how far from a staircase at the start, in (0, 1).

  All three are learned, one number each for the tensor, of shape (1,).
  Reference: Gong et al., 2019 (arXiv 1908.05033). Differs from the paper in:
  it may share one alpha among layers, and penalizes it in the loss; the same
  is open to a caller here. Without a tensor the ends are -3 and 3.
  """

  bits: int = 1
  low: float | None = None
  high: float | None = None
  alpha: float = 0.2

  @property
  def calibrates(self) -> bool:
    """Whether an end is taken from the tensor."""
    return self.low is None or self.high is None

  def parameters(
    self,
    channels: int,
    x: jax.Array | None = None,
    key: jax.Array | None = None,
  ) -> Mapping[str, jax.Array]:
    """`low`, `high` and `alpha`, of shape (1,)."""
    del channels, key
    measured = (-_SPREAD, _SPREAD)
    if x is not None:
      wide = _parts.bounded(x)
      measured = wide.min(), wide.max()
    low, high = (
      seen if given is None else given
      for given, seen in zip((self.low, self.high), measured, strict=True)
    )
    return {
      name: jnp.reshape(jnp.asarray(value, jnp.float32), (1,))
      for name, value in (("low", low), ("high", high), ("alpha", self.alpha))
    }

  def quantize(self, x: jax.Array, now: _base.Now) -> _base.Quantized:
    """Quantizes `x` of any shape."""
    low, high, alpha = (
      jnp.reshape(now[name], (1,) * x.ndim) for name in ("low", "high", "alpha")
    )
    n = 2**self.bits - 1
    wide = x.astype(jnp.float32)
    value = estimators.dsq(wide, low, high, alpha, bits=self.bits)
    value = bits_lib.tag(value, self.bits)
    low, step, level = map(
      jax.lax.stop_gradient, (low, (high - low) / n, value)
    )
    codes = jnp.round((level - low) / jnp.where(step == 0, 1.0, step))
    return _base.Quantized(
      value.astype(x.dtype),
      jnp.clip(codes, 0, n).astype(_base.narrowest((0, n))),
      step,
      self.bits,
      (0, n),
      low,
    )
