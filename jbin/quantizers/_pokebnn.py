"""PokeBNN's quantizers: binary with a bound, 4 and 8 bits with EMA bounds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jbin import estimators, references, schedules
from jbin.quantizers import _base, _parts

EPS = float(np.finfo(np.float32).eps)
EDGE = 1 - 2.0**-7  # the share of the bound inside which gradients pass
DECAY = 0.1  # of the running statistics
STATISTICS = ("mean", "mean_abs", "mean_sq", "minimum", "maximum")


def binary(
  x: jax.Array, bound: jax.Array, keep: estimators.Keep = "bits"
) -> _base.Quantized:
  """PokeBNN's binarizer of `x` for a given bound.

  Forward `y = +-(B + eps) / 2`, plus at zero; backward
  `dx = dy * [|x| < (1 - 2^-7) B]`.

  Args:
    x: floating, any shape.
    bound: B, float32, positive, broadcasts with `x` (same rank), constant.
    keep: as in `estimators.ste_sign`.
  """
  bound = jax.lax.stop_gradient(bound)
  codes = estimators.ste_sign(x, EDGE * bound, edge="open", keep=keep)
  return _base.signs(
    codes,
    (bound + EPS) / 2,
  )


def integer(
  x: jax.Array,
  bound: jax.Array,
  bits: int,
  signed: bool = True,
  half_shift: bool = False,
) -> _base.Quantized:
  """PokeBNN's fake quantization to more than one bit, for a given bound.

  signed: `L = 2^(p-1) - 1`, `s = L / (B + eps)`, forward
  `y = floor(clip(x s, -L, L) + 1/2) / s`; backward 1 inside, 0 outside, 1/2
  on the edge. unsigned: `s = 2^p / (B + eps)`, forward
  `y = clip(floor(x s), 0, 2^p - 1) / s`; backward 1 inside, 1/2 in the lowest
  and the highest bin, 0 outside. half shift: `L = 2^(p-1)`, forward
  `y = (floor(clip(x s, -L + 2^-7, L - 2^-7)) + 1/2) / s`. At zero: 0, and
  half a step with the half shift.

  Args:
    x: floating, any shape.
    bound: B, float32, broadcasts with `x` (same rank), constant.
    bits: p, 2 to 8.
    signed: whether levels lie on both sides of zero.
    half_shift: signed levels on half integers.
  """
  bound = jax.lax.stop_gradient(bound) + EPS
  limit = 2 ** (bits - 1) - (not half_shift)
  inverse = (limit if signed else 2**bits) / bound
  steps = x.astype(jnp.float32) * inverse
  shift = 2.0**-7
  if half_shift:
    codes = estimators.clipped_round(
      steps, shift - limit, limit - shift, rounding="floor", edge="half"
    )
    codes, scale = 2 * codes + 1, 0.5 / inverse
    levels = (1 - 2 * limit, 2 * limit - 1)
  elif signed:
    codes = estimators.clipped_round(
      steps, -limit, limit, rounding="up", edge="half"
    )
    scale, levels = 1 / inverse, (-limit, limit)
  else:
    top = 2**bits - 1
    codes = estimators.clipped_round(
      steps, 0, top, rounding="floor", edge="half", clip_first=False
    )
    scale, levels = 1 / inverse, (0, top)
  # The gradient of `steps` carries 1 / scale; multiplying the scale back on
  # undoes it.
  return _base.make(
    codes, scale, bits=bits, levels=levels, dtype=x.dtype, keep_scale=True
  )


@_base.REGISTRY.register
@references.cites("pokebnn")
@dataclasses.dataclass(frozen=True)
class poke_activation(_base.Quantizer):  # noqa: N801 - called like a function
  """Binary activations with a constant bound (PokeBNN).

  Forward `y = +-(B + eps) / 2`, plus at zero; backward
  `dx = dy * [|x| < (1 - 2^-7) B]`: the bound sets the gradient's window and
  the output's magnitude.

  Attributes:
    bound: B; a number or a schedule.

  Reference: Zhang et al., 2022 (arXiv 2112.00133). Differs from the code in
  nothing that is known.
  """

  bits: int = dataclasses.field(default=1, init=False, repr=False)
  bound: schedules.Hyper = 3.0

  def quantize(self, x: jax.Array, now: _base.Now) -> _base.Quantized:
    """Binarizes activations `x` of any shape."""
    bound = now.value(self.bound)
    return binary(x, jnp.full((1,) * x.ndim, bound, jnp.float32))


@_base.REGISTRY.register
@references.cites("pokebnn")
@dataclasses.dataclass(frozen=True)
class poke_weight(_base.Quantizer):  # noqa: N801 - called like a function
  """Weights of 1 to 8 bits, bounded by their largest in each output channel.

  Forward and backward as `binary` (p = 1) or signed `integer` with
  `B = max |w|` over all axes but the last, constant for the gradient: the
  largest weight of a binary channel never gets one (PokeBNN).

  Attributes:
    bits: the width, 1 to 8.

  The paper quantizes weights late: `delayed(poke_weight(1), start)`.
  At zero: the lowest positive level with one bit, else 0.
  Reference: Zhang et al., 2022 (arXiv 2112.00133); AQT's legacy code. Differs
  from the code in nothing that is known.
  """

  bits: int = 1

  def quantize(self, x: jax.Array, now: _base.Now) -> _base.Quantized:
    """Quantizes a kernel `x` whose last axis is the output channel."""
    over = _parts.other_axes(x.ndim, (-1,))
    bound = jnp.abs(_parts.bounded(x)).max(over, keepdims=True)
    if self.bits == 1:
      return binary(x, bound, now.keep)
    return integer(x, bound, self.bits)


@_base.REGISTRY.register
@references.cites("pokebnn")
@dataclasses.dataclass(frozen=True)
class ema_bounds(_base.Quantizer):  # noqa: N801 - called like a function
  """Activations of 2 to 8 bits whose bounds are measured, then frozen.

  While training, running statistics follow each channel's non-zero entries
  (`v <- v + 0.1 (batch - v)`; a channel without any is left as it is). At the
  first step whose progress reaches `start`, the bounds become
  `max(|running max|, |running min|)` and stay. Before that `y = x`, after it
  `y` is PokeBNN's signed or unsigned `integer`, with its gradient. At zero: 0.

  Attributes:
    bits: the width, 2 to 8.
    start: the progress at which the bounds are set.
    signed: whether levels lie on both sides of zero.
    per_channel: a bound for each entry of the last axis, as PokeBNN has it
      (such a scale varies along the contracted axis, which no integer product
      could pull out), or one for the tensor.

  While training, and in the evaluation twin, the product is that of the fake
  quantized values: whether the bounds are set is part of the state.

  Reference: Zhang et al., 2022 (arXiv 2112.00133); AQT's legacy code. Differs
  from the code in: statistics are of the global batch, minimum and maximum
  too (the code averages those of the devices).
  """

  bits: int = 8
  start: float = 0.0
  signed: bool = True
  per_channel: bool = True
  widths = (2, 8)

  @property
  def scheduled(self) -> bool:
    """True: the bounds are set at a certain progress."""
    return True

  def statistics(
    self, channels: int, x: jax.Array | None = None
  ) -> Mapping[str, jax.Array]:
    """Zeros, and bounds of -1, which say "not set yet"."""
    del x
    size = channels if self.per_channel else 1
    zeros = {name: jnp.zeros(size, jnp.float32) for name in STATISTICS}
    return {"bounds": jnp.full(size, -1.0, jnp.float32), **zeros}

  def update(
    self,
    x: jax.Array,
    *,
    progress: jax.Array | None,
    **statistics: jax.Array,
  ) -> Mapping[str, jax.Array]:
    """Running statistics after `x`, and the bounds once they are due."""
    x = jax.lax.stop_gradient(_parts.bounded(x))
    over = _parts.other_axes(x.ndim, (-1,) if self.per_channel else ())
    there = x != 0
    count = there.sum(over)
    some = jnp.maximum(count, 1)
    batch = {
      "mean": x.sum(over) / some,
      "mean_abs": jnp.abs(x).sum(over) / some,
      "mean_sq": jnp.square(x).sum(over) / some,
      "minimum": jnp.where(there, x, jnp.inf).min(over),
      "maximum": jnp.where(there, x, -jnp.inf).max(over),
    }
    new = {}
    for name, value in batch.items():
      old = statistics[name]
      value = jnp.reshape(value, old.shape)
      seen = jnp.reshape(count > 0, old.shape)
      new[name] = jnp.where(seen, old + DECAY * (value - old), old)
    bounds = statistics["bounds"]
    due = schedules.value(schedules.switch(self.start), progress) > 0
    due &= jnp.all(bounds < 0)
    measured = jnp.maximum(jnp.abs(new["maximum"]), jnp.abs(new["minimum"]))
    return {"bounds": jnp.where(due, measured, bounds), **new}

  def quantize(self, x: jax.Array, now: _base.Now) -> _base.Quantized:
    """Quantizes activations `x`, channels last, with the bounds given."""
    bounds = now["bounds"]
    on = integer(
      x,
      _parts.along_last(bounds, x.ndim),
      self.bits,
      self.signed,
    )
    return _base.gate(jnp.any(bounds >= 0), on, x)
