"""FDA-BNN: signs with a Fourier gradient, and noise that fades away."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jbin import errors, estimators, references, schedules
from jbin.quantizers import _base, _parts

_ORDER = schedules.staircase(9, 18)
_FADING = schedules.cosine(0.1)


def _noise(v: jax.Array, fc1: jax.Array, fc2: jax.Array) -> jax.Array:
  """`relu(v fc1) fc2 + sin(v) / 10` along the last axis; float32."""
  v = _parts.bounded(v)
  return jax.nn.relu(v @ fc1) @ fc2 + 0.1 * jnp.sin(v)


@dataclasses.dataclass(frozen=True)
class _Fda(_base.Quantizer):
  """What kernels and activations share: the schedules and the noise net."""

  bits: int = dataclasses.field(default=1, init=False, repr=False)
  n: schedules.Hyper = _ORDER
  alpha: schedules.Hyper = _FADING
  omega: float = 0.1
  zero: float = 1.0

  @property
  def _quiet(self) -> bool:
    """Whether there is no noise from the start."""
    return not isinstance(self.alpha, schedules.Schedule) and not self.alpha

  @property
  def seeded(self) -> bool:
    """True where there is a noise net."""
    return not self._quiet

  def _net(self, width: int, key: jax.Array | None) -> dict[str, jax.Array]:
    """Both matrices, uniform in +-1 / sqrt(inputs)."""
    if self._quiet:
      return {}
    hidden = max(width // 64, 1)
    shapes = {"fc1": (width, hidden), "fc2": (hidden, width)}
    keys = jax.random.split(_base.required_key(self, key))
    return {
      name: jax.random.uniform(each, shape, jnp.float32, -1.0, 1.0)
      / math.sqrt(shape[0])
      for each, (name, shape) in zip(keys, shapes.items(), strict=True)
    }

  def _sign(self, x: jax.Array, now: _base.Now) -> jax.Array:
    n = now.value(self.n)
    return estimators.fda_sign(x, n, self.omega, zero=self.zero)

  def _quantized(
    self,
    codes: jax.Array,
    noise: jax.Array | None,
    scale: jax.Array | None,
    now: _base.Now,
    dtype: jnp.dtype,
  ) -> _base.Quantized:
    """`scale * (codes + alpha * noise)`."""
    if noise is None:
      return _base.signs(
        codes,
        scale,
        dtype=dtype,
        keep_scale=True,
        zero=self.zero,
      )
    value = codes + now.value(self.alpha) * noise
    if scale is not None:
      value = scale * value
    return _base.without_codes(value.astype(dtype), bits=1, levels=(-1, 1))


@_base.REGISTRY.register
@references.cites("fda")
@dataclasses.dataclass(frozen=True)
class fda_weight(_Fda):  # noqa: N801 - called like a function
  """Scaled signs of weights with a Fourier gradient and fading noise (FDA-BNN).

  `s = mean|w|` over all axes but the last, constant for the gradient. Forward
  `y = s * (sign(w) + alpha * eta(w))`; backward that of `estimators.fda_sign`
  for the sign and plain differentiation of `eta`, both with the factor `s`.
  `eta(v) = fc2 relu(fc1 v) + sin(v) / 10` of each output channel's weights as
  one vector of length d, with `max(d // 64, 1)` hidden units. At zero:
  `+s` plus noise.

  Attributes:
    n: the order of the gradient's series, whole; a number or a schedule.
    alpha: the noise's weight; a number or a schedule. 0: no noise net, and
      codes. Otherwise values are binary only once alpha has become 0, products
      take the value, and the tag says the one bit that it ends with (which a
      positive number never reaches).
    omega: the base frequency of the series.
    zero: the value of sign(0). PyTorch code has 0.

  Learned: `fc1` (d, hidden), `fc2` (hidden, d), d in the order of the kernel's
  axes; uniform in +-1 / sqrt(inputs) at first.

  Reference: Xu et al., 2021 (arXiv 2103.00841), with the schedules of BiBench's
  code, which sets `alpha` to its value at the end of each epoch: its last
  epoch has no noise. For that, end the cosine early (`until=`). Differs from
  that code in: the hidden width is at least 1.
  """

  def parameters(
    self,
    channels: int,
    x: jax.Array | None = None,
    key: jax.Array | None = None,
  ) -> Mapping[str, jax.Array]:
    """The noise net for a kernel `x`, whose shape it needs."""
    if self._quiet:
      return {}
    if x is None:
      raise errors.UserError(
        "fda_weight: the size of its noise net is that of the kernel; give one"
        " (activations take fda_activation)"
      )
    return self._net(x.size // channels, key)

  def quantize(self, x: jax.Array, now: _base.Now) -> _base.Quantized:
    """Quantizes a kernel `x` whose last axis is the output channel."""
    scale = _parts.mean_magnitude(x, _parts.other_axes(x.ndim, (-1,)))
    noise = None
    if not self._quiet:
      filters = jnp.reshape(x, (-1, x.shape[-1])).T
      noise = _noise(filters, now["fc1"], now["fc2"])
      noise = jnp.reshape(noise.T, x.shape)
    return self._quantized(self._sign(x, now), noise, scale, now, x.dtype)


@_base.REGISTRY.register
@references.cites("fda")
@dataclasses.dataclass(frozen=True)
class fda_activation(_Fda):  # noqa: N801 - called like a function
  """Signs with a Fourier gradient and fading noise (FDA-BNN: activations).

  Forward `y = sign(x) + alpha * eta(x)`; backward that of
  `estimators.fda_sign` for the sign and plain differentiation of `eta`, which
  is as in `fda_weight`, of the channels at each position. At zero: +1 plus
  noise. Attributes and reference as in `fda_weight`.

  Learned: `fc1` (C, hidden), `fc2` (hidden, C), as in `fda_weight`. Differs
  from BiBench's code in: they are trained (there they are made after the
  optimizer, which never sees them).
  """

  def parameters(
    self,
    channels: int,
    x: jax.Array | None = None,
    key: jax.Array | None = None,
  ) -> Mapping[str, jax.Array]:
    """The noise net for activations of `channels`."""
    del x
    return self._net(channels, key)

  def quantize(self, x: jax.Array, now: _base.Now) -> _base.Quantized:
    """Quantizes activations `x`, channels last."""
    noise = None
    if not self._quiet:
      noise = _noise(x, now["fc1"], now["fc2"])
    return self._quantized(self._sign(x, now), noise, None, now, x.dtype)
