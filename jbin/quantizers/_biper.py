"""BiPer: weights on a square wave, after a stage on the sine itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jbin import estimators, references, schedules
from jbin.quantizers import _base, _parts


@_base.REGISTRY.register
@references.cites("biper")
@dataclasses.dataclass(frozen=True)
class biper_weight(_base.Quantizer):  # noqa: N801 - called like a function
  """Weights on a sine, from a certain progress on its sign (BiPer).

  First stage: `y = alpha * sin(omega w)`, real numbers; second stage:
  `y = alpha * sign(sin(omega w))`. Backward, in both,
  `dw = dy * alpha * omega * cos(omega w)`, and
  `dalpha = sum(dy * y / alpha)`. At zero: +alpha in the second stage. Nothing
  is centred, standardized or clipped. Its activations are `recu_activation()`.

  Attributes:
    omega: the frequency; a number or a schedule. A learning rate belongs to
      its omega: gradients carry the factor.
    binary_from: the progress at which the second stage begins; nothing
      recompiles. 0: the second stage only, with codes. Else the tensor has no
      codes, and products take the value, for the whole run. More than 1: the
      first stage only.
    learned_scale: whether there is an `alpha`; without it the scale is 1.
    zero: the sign of 0. PyTorch code has 0 there, which is no bit: products
      then take the value, not codes.

  Learned: `scale` (C,), alpha, drawn from [0, 1).

  Reference: Vargas et al., 2024 (arXiv 2404.01278). Both recipes spend two
  thirds of their epochs in the first stage. Differs from the code in: one run
  with one schedule in place of two, the scale belongs to the kernel, so a
  bias is not multiplied by it, and sign(0).
  """

  bits: int = dataclasses.field(default=1, init=False, repr=False)
  omega: schedules.Hyper = 20.0
  binary_from: float = 2 / 3
  learned_scale: bool = True
  zero: float = 1.0

  @property
  def seeded(self) -> bool:
    """True where there is an alpha."""
    return self.learned_scale

  @property
  def scheduled(self) -> bool:
    """Whether the stage, or the frequency, may change."""
    return self.binary_from > 0 or super().scheduled

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
    omega = now.value(self.omega)
    scale = None
    if self.learned_scale:
      scale = _parts.along_last(now["scale"], x.ndim)
    binary = _base.signs(
      estimators.sine_sign(x, omega, zero=self.zero),
      scale,
      dtype=x.dtype,
      keep_scale=True,
      zero=self.zero,
    )
    if self.binary_from <= 0:
      return binary
    active = now.value(schedules.switch(self.binary_from)) > 0
    # Infinities have no phase; a NaN here would reach the other stage.
    real = jnp.sin(jax.lax.stop_gradient(omega) * _parts.bounded(x))
    if scale is not None:
      real = real * scale
    return _base.gate(active, binary, real.astype(x.dtype))
