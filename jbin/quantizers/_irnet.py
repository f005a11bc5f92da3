"""IR-Net: balanced, standardized weights and a sharpening gradient."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from jbin import estimators, references, schedules
from jbin.quantizers import _base, _parts

_SHARPER = schedules.exponential(0.1, 10.0)


@dataclasses.dataclass(frozen=True)
class _IrNet(_base.Quantizer):
  """What kernels and activations share: the estimator and its schedule."""

  bits: int = dataclasses.field(default=1, init=False, repr=False)
  t: schedules.Hyper = _SHARPER
  k: schedules.Hyper | None = None
  zero: float = 1.0

  def _codes(self, x: jax.Array, now: _base.Now) -> jax.Array:
    k = None if self.k is None else now.value(self.k)
    t = now.value(self.t)
    return estimators.ede_sign(x, t, k=k, zero=self.zero)


@_base.REGISTRY.register
@references.cites("irnet")
@dataclasses.dataclass(frozen=True)
class irnet_weight(_IrNet):  # noqa: N801 - called like a function
  """Signs of standardized weights times a power of two (IR-Net's Libra).

  `v = (w - mean) / sd` over all axes but the last (unbiased sd),
  `s = 2^round(log2 mean|v|)` of each output channel, constant for the
  gradient, ties to even. Forward `y = s * sign(v)`; backward
  `dv = dy * s * k t (1 - tanh(t v)^2)`, on through the standardization. At
  `v = 0`: +s. A constant channel has `v = 0`, `s = 0` and no gradient.

  Attributes:
    t: the sharpness; a number or a schedule. The paper's goes from 0.1 to 10;
      the authors' script for the smallest net begins at 0.001.
    k: the height; None for `max(1 / t, 1)`.
    zero: the sign of 0. PyTorch code has 0 there, which is no bit: products
      then take the value, not codes.

  Reference: Qin et al., 2020 (arXiv 1909.10788). Differs from the code in:
  constant channels (the code divides 0 by 0), and sign(0).
  """

  def quantize(self, x: jax.Array, now: _base.Now) -> _base.Quantized:
    """Quantizes a kernel `x` whose last axis is the output channel."""
    over = _parts.other_axes(x.ndim, (-1,))
    v = _parts.standardize(x.astype(jnp.float32), over)
    mean = _parts.mean_magnitude(v, over)
    there = mean > 0
    power = jnp.round(jnp.log2(jnp.where(there, mean, 1.0)))
    scale = jnp.where(there, jnp.ldexp(1.0, power.astype(jnp.int32)), 0.0)
    return _base.signs(
      self._codes(v, now),
      scale,
      dtype=x.dtype,
      keep_scale=True,
      zero=self.zero,
    )


@_base.REGISTRY.register
@references.cites("irnet")
@dataclasses.dataclass(frozen=True)
class irnet_activation(_IrNet):  # noqa: N801 - called like a function
  """Plain signs with a gradient that sharpens (IR-Net).

  Forward `y = sign(x)`; backward `dx = dy * k t (1 - tanh(t x)^2)`. At zero:
  +1.

  Attributes:
    t: the sharpness; a number or a schedule, as in `irnet_weight`.
    k: the height; None for `max(1 / t, 1)`.
    zero: the value at 0. PyTorch code has 0 there, which is no bit: products
      then take the value, not codes.

  Reference: Qin et al., 2020 (arXiv 1909.10788). Differs from the code in
  nothing but sign(0).
  """

  def quantize(self, x: jax.Array, now: _base.Now) -> _base.Quantized:
    """Signs of activations `x`, any shape."""
    return _base.signs(
      self._codes(x, now),
      None,
      zero=self.zero,
    )
