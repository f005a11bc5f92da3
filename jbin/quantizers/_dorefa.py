"""DoReFa-Net: k-bit weights and activations on uniform levels."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from jbin import estimators, references
from jbin.quantizers import _base, _parts


@_base.REGISTRY.register
@references.cites("dorefa")
@dataclasses.dataclass(frozen=True)
class dorefa_weight(_base.Quantizer):  # noqa: N801 - called like a function
  """Weights of k bits in [-1, 1]; one bit is a sign times mean |w| (DoReFa).

  k = 1: forward `y = E|w| * sign(w)`, `E|w|` over the whole tensor, constant
  for the gradient; backward `dw = dy`. At zero: `+E|w|`.
  k > 1: `v = tanh(w) / (2 max|tanh w|) + 1/2`, `n = 2^k - 1`, forward
  `y = 2 round(n v) / n - 1`, ties to even; backward
  `dw = dy * (1 - tanh(w)^2) / max|tanh w|`, the maximum constant. No level is
  zero. All-zero weights have `v = 1/2`.

  Attributes:
    bits: the width, 1 to 8.
    scaled_sign: whether one bit is the paper's sign times mean |w|. False: it
      follows the formula of k > 1, as Larq's code has it: +-1, and -1 at zero.

  Reference: Zhou et al., 2016 (arXiv 1606.06160). Differs from the paper in:
  gradients are not quantized.
  """

  bits: int = 1
  scaled_sign: bool = True

  def quantize(self, x: jax.Array, now: _base.Now) -> _base.Quantized:
    """Quantizes weights `x` of any shape."""
    if self.bits == 1 and self.scaled_sign:
      return _base.signs(
        estimators.ste_sign(x, None),
        _parts.mean_magnitude(x, range(x.ndim)),
      )
    n = 2**self.bits - 1
    squashed = jnp.tanh(x.astype(jnp.float32))
    largest = jax.lax.stop_gradient(jnp.abs(squashed).max(keepdims=True))
    # All-zero weights: 0 / 1 in place of 0 / 0 puts them at v = 1/2.
    largest = jnp.where(largest > 0, largest, 1.0)
    steps = n * (squashed / (2 * largest) + 0.5)
    # dsteps/dw carries n / 2; the value's scale 1 / n and the 2 undo it. A
    # quarter of room: the largest, divided, may round to just outside.
    level = estimators.clipped_round(steps, -0.25, n + 0.25)
    codes = 2 * level - n
    scale = jnp.full((1,) * x.ndim, 1 / n, jnp.float32)
    return _base.make(
      codes,
      scale,
      bits=self.bits,
      levels=(-n, n),
      dtype=x.dtype,
      keep_scale=True,
    )


@_base.REGISTRY.register
@references.cites("dorefa")
@dataclasses.dataclass(frozen=True)
class dorefa_activation(_base.Quantizer):  # noqa: N801 - called like a function
  """Activations of k bits in [0, 1] (DoReFa).

  Forward `y = round(n clip(x, 0, 1)) / n`, `n = 2^k - 1`, ties to even;
  backward `dx = dy * [0 <= x <= 1]`. At zero: 0.

  Attributes:
    bits: the width, 1 to 8.

  Reference: Zhou et al., 2016 (arXiv 1606.06160). Differs from the paper in:
  the clip is part of the quantizer, as in the authors' code.
  """

  bits: int = 2

  def quantize(self, x: jax.Array, now: _base.Now) -> _base.Quantized:
    """Quantizes activations `x` of any shape."""
    n = 2**self.bits - 1
    steps = x.astype(jnp.float32) * n
    codes = estimators.clipped_round(steps, 0.0, float(n))
    scale = jnp.full((1,) * x.ndim, 1 / n, jnp.float32)
    return _base.make(
      codes,
      scale,
      bits=self.bits,
      levels=(0, n),
      dtype=x.dtype,
      keep_scale=True,
    )
