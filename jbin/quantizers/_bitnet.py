"""BitNet: one-bit and ternary weights, activations of each token to 8 bits."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from jbin import references
from jbin.quantizers import _base, _bit, _integer, _parts

FLOOR = 1e-5  # of a mean magnitude and of a largest entry


@_base.REGISTRY.register
@references.cites("bitnet158")
@dataclasses.dataclass(frozen=True)
class bitnet158_weight(_base.Quantizer):  # noqa: N801 - called like a function
  """Ternary weights by their mean magnitude (BitNet b1.58).

  `m = max(mean|w|, 1e-5)` over the whole tensor, constant for the gradient;
  forward `y = m * clip(round(w / m), -1, 1)`, ties to even; backward `dw = dy`
  everywhere. At zero: 0; weights of zeros stay zeros.

  Two bits wide, levels -1, 0, +1.
  Reference: Ma et al., 2024 (arXiv 2402.17764). Differs from the paper in
  nothing that is known.
  """

  bits: int = dataclasses.field(default=2, init=False, repr=False)

  def quantize(self, x: jax.Array, now: _base.Now) -> _base.Quantized:
    """Quantizes weights `x` of any shape."""
    size = _parts.mean_magnitude(x, range(x.ndim))
    size = jnp.clip(size, FLOOR, _integer.MOST)
    steps = x.astype(jnp.float32) * (1 / size)
    codes = jnp.clip(jnp.round(steps), -1, 1)
    return _base.make(
      _parts.straight_through(x, codes), size, bits=2, levels=(-1, 1)
    )


@_base.REGISTRY.register
@references.cites("bitnet")
@dataclasses.dataclass(frozen=True)
class bitnet_weight(_base.Quantizer):  # noqa: N801 - called like a function
  """Signs about the kernel's mean, times its mean magnitude (BitNet, 1 bit).

  Forward `y = mean|w| * (+1 if w > mean(w) else -1)` over the whole tensor;
  backward `dw = dy`. Where `w` is the mean: `-mean|w|`, as the paper has it.

  Attributes:
    zero: the sign where `w` is the mean.

  Reference: Wang et al., 2023 (arXiv 2310.11453). Differs from the paper in
  nothing that is known.
  """

  bits: int = dataclasses.field(default=1, init=False, repr=False)
  zero: float = -1.0

  def quantize(self, x: jax.Array, now: _base.Now) -> _base.Quantized:
    """Binarizes weights `x` of any shape."""
    return _bit.signs_about_mean(x, (), self.zero)


@_base.REGISTRY.register
@references.cites("bitnet158")
@dataclasses.dataclass(frozen=True)
class bitnet_activation(_base.Quantizer):  # noqa: N801 - called like a function
  """Integers for each token, by its largest magnitude (BitNet).

  `m = max(max|x|, 1e-5)` over what shares it, constant for the gradient;
  forward `y = round(x * Q / m) * m / Q`, `Q = 2^(b-1) - 1`, ties to even;
  backward `dx = dy` everywhere. At zero: 0.

  Attributes:
    bits: the width, 2 to 8.
    full: the rule of one-bit BitNet: `Q = 2^(b-1)`, and `x * Q / m` is clipped
      to `+-(Q - 1e-5)` first. Its levels are -Q to Q, one more than b bits
      can tell apart; at 8 bits they do not fit int8, and products take
      bfloat16 for them, which is exact.
    per_token: whether m is that of each row along the last axis, or that of
      the tensor, as one-bit BitNet has it in training:
      `bitnet_activation(full=True, per_token=False)`.

  Reference: Ma et al., 2024 (arXiv 2402.17764); Wang et al., 2023 (arXiv
  2310.11453) for `full`. Differs from the latter in: the result is rounded.
  """

  bits: int = 8
  full: bool = False
  per_token: bool = True
  widths = (2, 8)

  @property
  def references(self) -> tuple[str, ...]:
    """BitNet b1.58, or BitNet for `full`."""
    return ("bitnet",) if self.full else ("bitnet158",)

  def quantize(self, x: jax.Array, now: _base.Now) -> _base.Quantized:
    """Quantizes activations `x` (..., features)."""
    top = 2 ** (self.bits - 1) - (not self.full)
    wide = jax.lax.stop_gradient(x).astype(jnp.float32)
    over = -1 if self.per_token else None
    largest = jnp.abs(wide).max(over, keepdims=True)
    largest = jnp.clip(largest, FLOOR, _integer.MOST)
    scale = top / largest
    steps = wide * scale
    if self.full:
      steps = jnp.clip(steps, -(top - 1e-5), top - 1e-5)
    codes = jnp.clip(jnp.round(steps), -top, top)
    return _base.make(
      _parts.straight_through(x, codes),
      1 / scale,
      bits=self.bits,
      levels=(-top, top),
    )
