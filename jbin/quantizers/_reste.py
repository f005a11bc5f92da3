"""ReSTE: signs whose gradient goes from straight-through to the sign's own."""

from __future__ import annotations

import dataclasses

import jax

from jbin import estimators, references, schedules
from jbin.quantizers import _base, _parts

_POWER = schedules.quarter_cosine(1.0, 3.0)


@dataclasses.dataclass(frozen=True)
class _Reste(_base.Quantizer):
  """What kernels and activations share: the estimator and its schedule."""

  bits: int = dataclasses.field(default=1, init=False, repr=False)
  o: schedules.Hyper = _POWER
  t: schedules.Hyper = 1.5
  m: schedules.Hyper = 0.1
  zero: float = 1.0

  def _codes(self, x: jax.Array, now: _base.Now) -> jax.Array:
    o, t, m = (now.value(h) for h in (self.o, self.t, self.m))
    return estimators.reste_sign(x, o, t=t, m=m, zero=self.zero)


@_base.REGISTRY.register
@references.cites("reste")
@dataclasses.dataclass(frozen=True)
class reste_weight(_Reste):  # noqa: N801 - called like a function
  """Signs times the mean magnitude of the whole kernel (ReSTE).

  `c = mean|w|`, one number. Forward `y = c * sign(w)`; backward
  `dw = c * dy * f(w) + sign(w) / n * sum(dy * sign(w))`, f the factor of
  `estimators.reste_sign` and d|w|/dw = 0 at zero. At zero: +c.

  Attributes:
    o: the power; a number or a schedule.
    t: where the gradient ends.
    m: where the gradient's secant about zero ends.
    zero: the value at 0, before c. PyTorch code has 0 there, which is no bit:
      products then take the value, not codes.
    detached: whether c is a constant for the gradient; the code differentiates
      it, so the default does.
    keep_scale: whether the signs' gradient has the factor c. False: it has
      not, and c is a constant.

  Reference: Wu et al., 2023 (arXiv 2308.06689). Differs from the code in: the
  power follows the step (the code sets it once an epoch), and sign(0).
  """

  detached: bool = False
  keep_scale: bool = True

  @property
  def window(self) -> schedules.Hyper | None:
    """Where the gradient ends."""
    return self.t

  def quantize(self, x: jax.Array, now: _base.Now) -> _base.Quantized:
    """Quantizes a kernel `x` of any shape."""
    measure = _parts.mean_magnitude if self.detached else _parts.magnitude
    return _base.signs(
      self._codes(x, now),
      measure(x, range(x.ndim)),
      dtype=x.dtype,
      keep_scale=self.keep_scale,
      zero=self.zero,
    )


@_base.REGISTRY.register
@references.cites("reste")
@dataclasses.dataclass(frozen=True)
class reste_activation(_Reste):  # noqa: N801 - called like a function
  """Plain signs with ReSTE's gradient.

  Forward `y = sign(x)`; backward `dx = dy * f(x)`, f the factor of
  `estimators.reste_sign`. At zero: +1.

  Attributes:
    o: the power; a number or a schedule.
    t: where the gradient ends.
    m: where the gradient's secant about zero ends.
    zero: the value at 0. PyTorch code has 0 there, which is no bit: products
      then take the value, not codes.

  Reference: Wu et al., 2023 (arXiv 2308.06689). Differs from the code in: the
  power follows the step (the code sets it once an epoch), and sign(0).
  """

  def quantize(self, x: jax.Array, now: _base.Now) -> _base.Quantized:
    """Signs of activations `x`, any shape."""
    return _base.signs(
      self._codes(x, now),
      None,
      zero=self.zero,
    )
