"""ReCU: clamped weights, and signs whose gradient sees standardized inputs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jbin import estimators, references, schedules
from jbin.quantizers import _base, _parts

_EPS = 1e-5  # beside a variance
_SPREAD = 2 * math.sqrt(2)
_TINY = float(np.finfo(np.float32).tiny)
_TAU = schedules.growth(0.85, 0.99)


@_base.REGISTRY.register
@references.cites("recu")
@dataclasses.dataclass(frozen=True)
class recu_weight(_base.Quantizer):  # noqa: N801 - called like a function
  """Signs of standardized weights, the outermost clamped (ReCU).

  `v = 2 sqrt(2) (w - mean) / sqrt(var + 1e-5)` over all axes but the last
  (unbiased variance), `Q = -mean|v| * ln(2 - 2 tau)` with the mean over the
  whole kernel, constant for the gradient. Forward `y = alpha * sign(v)`;
  backward `dv = dy * alpha * [|v| <= Q]`, on through the standardization, and
  `dalpha = sum dy * sign(v)`. At `v = 0`: +alpha.

  Attributes:
    tau: the quantile at which weights are clamped, from 1/2 to 1 (1: no
      clamp); a number or a schedule.
    learned_scale: whether there is an `alpha`; without it the scale is 1.
    zero: the value at 0, before alpha. PyTorch code has 0 there, which is no
      bit: products then take the value, not codes.

  Learned: `scale` (C,), alpha, drawn from [0, 1).

  Reference: Xu et al., 2021 (arXiv 2103.12369). Differs from the code in:
  the scale belongs to the kernel, so a bias is not multiplied by it.
  """

  bits: int = dataclasses.field(default=1, init=False, repr=False)
  tau: schedules.Hyper = _TAU
  learned_scale: bool = True
  zero: float = 1.0

  @property
  def seeded(self) -> bool:
    """True where there is an alpha."""
    return self.learned_scale

  def parameters(
    self,
    channels: int,
    x: jax.Array | None = None,
    key: jax.Array | None = None,
  ) -> Mapping[str, jax.Array]:
    """Alpha, uniform in [0, 1)."""
    del x
    if not self.learned_scale:
      return {}
    return {"scale": _base.drawn(self, key, channels)}

  def quantize(self, x: jax.Array, now: _base.Now) -> _base.Quantized:
    """Quantizes a kernel `x` whose last axis is the output channel."""
    tau = jnp.asarray(now.value(self.tau), jnp.float32)
    over = _parts.other_axes(x.ndim, (-1,))
    v = _SPREAD * _parts.standardize(x.astype(jnp.float32), over, eps=_EPS)
    mean = _parts.mean_magnitude(v, range(x.ndim))
    # Not 0 times infinity, where all weights are equal and tau is 1.
    clamp = -jnp.log(2 - 2 * tau) * jnp.maximum(mean, _TINY)
    scale = None
    if self.learned_scale:
      scale = _parts.along_last(now["scale"], x.ndim)
    return _base.signs(
      estimators.ste_sign(v, clamp, zero=self.zero),
      scale,
      dtype=x.dtype,
      keep_scale=True,
      zero=self.zero,
    )


@_base.REGISTRY.register
@references.cites("recu")
@dataclasses.dataclass(frozen=True)
class recu_activation(_base.Quantizer):  # noqa: N801 - called like a function
  """Signs whose gradient sees each example at unit spread (ReCU).

  `v = x / sqrt(var + 1e-5)`, the unbiased variance of each example. Forward
  `y = sign(x)`, which is sign(v): the standardization only matters for the
  gradient, so evaluation needs no mode of its own, and computes no variance.
  Backward `dv = dy * max(0, 2 - 2|v|)`, on through the variance. At zero: +1.

  Attributes:
    axes: the axes that keep a variance of their own: (0,), each example;
      (0, 1), each row of (batch, row, channels), as BiBench's linear layers
      have it.
    standardized: False: `v = x`, as the code has it in evaluation mode.
    zero: the value at 0. PyTorch code has 0 there, which is no bit: products
      then take the value, not codes.

  BiPer has the same activations.
  Reference: Xu et al., 2021 (arXiv 2103.12369). Differs from the code in
  nothing but sign(0).
  """

  bits: int = dataclasses.field(default=1, init=False, repr=False)
  axes: tuple[int, ...] = (0,)
  standardized: bool = True
  zero: float = 1.0

  def quantize(self, x: jax.Array, now: _base.Now) -> _base.Quantized:
    """Signs of activations `x`, any shape that has the `axes`."""
    codes = estimators.approx_sign(x, zero=self.zero)
    if self.standardized:
      over = _parts.other_axes(x.ndim, self.axes)
      v = _parts.standardize(x, over, eps=_EPS, centered=False)
      codes = _parts.straight_through(estimators.approx_sign(v), codes)
    return _base.signs(codes, None, zero=self.zero)
