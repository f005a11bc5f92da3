"""BiT: elastic binarization of activations, signs about a mean for weights."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from jbin import estimators, references
from jbin.quantizers import _base, _lsq, _parts

FLOOR = 1e-5  # the least scale


@_base.REGISTRY.register
@references.cites("bit")
@dataclasses.dataclass(frozen=True)
class bit_activation(_base.Quantizer):  # noqa: N801 - called like a function
  """Elastic binarization: a learned scale, {-1, +1} or {0, 1} (BiT).

  With `x` shifted first (`x + b`) and `r = x / a`, one bit is
  signed: `y = a * sign(x)`, `dx = dy * [-1 <= r <= 1]`,
  `da = c * sum dy * sign(x)`; unsigned: `y = a * round(clip(r, 0, 1))`, ties
  to even, `dx = dy * [0 <= r <= 1]`,
  `da = c * sum dy * (round(r) - r inside, 0 below, 1 above)`;
  `c = 1 / sqrt(N * Qp)`, N the entries of the tensor. More bits are `lsq`,
  unsigned ones after the tensor's minimum is taken off (and put back).
  At zero: `+a` signed, 0 unsigned.
  The learned `alpha`, a scalar, starts at `2 mean|x| / sqrt(Qp)` signed and
  `4 mean|x| / sqrt(Qp)` unsigned; `nn.calibrate` takes it from a batch.

  Attributes:
    bits: the width, 1 to 8.
    signed: False for what is never negative: attention probabilities, the
      activations behind a ReLU.
    shift: whether there is a learned `shift` b, one for each entry of the last
      axis, 0 at the start; BiT's layers have it in front of every input.
    minimum: whether more than one unsigned bit start from the tensor's
      minimum, as the code has it; such a tensor has an offset, so products
      take its value. False: from 0.
    zero: the sign at 0. PyTorch has 0.0, which is no bit: products then take
      the value.

  Reference: Liu et al., 2022 (arXiv 2205.13016). Differs from the code in:
  sign(0) = +1.
  """

  bits: int = 1
  signed: bool = True
  shift: bool = False
  minimum: bool = True
  zero: float = 1.0

  def quantize(self, x: jax.Array, now: _base.Now) -> _base.Quantized:
    """Quantizes activations `x`, channels last, with the `alpha` given."""
    dtype, offset = x.dtype, None
    if self.shift:
      shift = _parts.along_last(now["shift"], x.ndim)
      x = x.astype(jnp.float32) + shift
    if self.minimum and self.bits > 1 and not self.signed:
      x = _parts.bounded(x)
      offset = jax.lax.stop_gradient(x.min(keepdims=True))
    return _lsq.quantize(
      x,
      now["alpha"],
      bits=self.bits,
      levels=_lsq.levels_of(self.bits, self.signed, False),
      floor=FLOOR,
      zero=self.zero,
      offset=offset,
      dtype=dtype,
    )

  def parameters(
    self,
    channels: int,
    x: jax.Array | None = None,
    key: jax.Array | None = None,
  ) -> Mapping[str, jax.Array]:
    """The scale, from the tensor's mean magnitude, and the shift."""
    del key
    high = _lsq.levels_of(self.bits, self.signed, False)[1]
    times = (2 if self.signed else 4) / math.sqrt(high)
    found = {"alpha": times * _parts.initial_magnitude(x, (), ())}
    if self.shift:
      found["shift"] = jnp.zeros(channels, jnp.float32)
    return found

  @property
  def calibrates(self) -> bool:
    """True: the scale starts from the tensor."""
    return True


def signs_about_mean(
  x: jax.Array, kept: Sequence[int], zero: float
) -> _base.Quantized:
  """`mean|x| * sign(x - mean of the tensor)`, gradient 1 (BiT, BitNet).

  Args:
    x: floating, any shape.
    kept: the axes that keep a mean magnitude of their own.
    zero: the sign at 0.
  """
  wide = _parts.bounded(x)
  mean = jax.lax.stop_gradient(wide.mean())
  return _base.signs(
    estimators.ste_sign(_parts.deviation(wide, mean), None, zero=zero),
    _parts.mean_magnitude(x, _parts.other_axes(x.ndim, kept)),
    dtype=x.dtype,
    zero=zero,
  )


@_base.REGISTRY.register
@references.cites("bit")
@dataclasses.dataclass(frozen=True)
class bit_weight(_base.Quantizer):  # noqa: N801 - called like a function
  """Signs about the kernel's mean, times its mean magnitude (BiT).

  Forward `y = mean|w| * sign(w - mean(w))`, the mean of the signed weights
  over the whole tensor; backward `dw = dy`. Where `w` is the mean: `+mean|w|`.

  Attributes:
    axes: the axes that keep a mean magnitude of their own. (): one for the
      layer. (-1,): each output channel of a kernel. (0,): each token of an
      embedding's table (BiPFT). The shift is the whole tensor's mean anyway.
    zero: the sign at 0; PyTorch has 0.0, which is no bit.

  Reference: Liu et al., 2022 (arXiv 2205.13016). Differs from the code in:
  sign(0) = +1.
  """

  bits: int = dataclasses.field(default=1, init=False, repr=False)
  axes: tuple[int, ...] = ()
  zero: float = 1.0

  def quantize(self, x: jax.Array, now: _base.Now) -> _base.Quantized:
    """Binarizes weights `x`, any shape that has the `axes`."""
    return signs_about_mean(x, self.axes, self.zero)
