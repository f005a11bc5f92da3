"""DoReFa-Net: k-bit weights and activations on uniform levels."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from jbin import errors, estimators
from jbin.quantizers import _base


def _check(name: str, bits: int) -> None:
  if not isinstance(bits, int) or not 1 <= bits <= 8:
    raise errors.UserError(f"{name}: bits must be 1 to 8, got {bits!r}")


@_base.REGISTRY.register
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
    k: bits, 1 to 8.

  Reference: Zhou et al., 2016 (arXiv 1606.06160). Differs from the paper in
  nothing that is known.
  """

  k: int = 1

  def __post_init__(self) -> None:
    """Checks the width."""
    _check("dorefa_weight", self.k)

  @property
  def bits(self) -> int:
    """K."""
    return self.k

  def __call__(
    self,
    x: jax.Array,
    *,
    progress: jax.Array | None = None,
    **variables: jax.Array,
  ) -> _base.Quantized:
    """Quantizes weights `x` of any shape."""
    del progress, variables
    if self.k == 1:
      return _base.make(
        estimators.ste_sign(x, None),
        _base.mean_magnitude(x, range(x.ndim)),
        bits=1,
        levels=(-1, 1),
      )
    n = 2**self.k - 1
    squashed = jnp.tanh(x.astype(jnp.float32))
    largest = jax.lax.stop_gradient(jnp.abs(squashed).max(keepdims=True))
    # All-zero weights: 0 / 1 in place of 0 / 0 puts them at v = 1/2.
    largest = jnp.where(largest > 0, largest, 1.0)
    steps = n * (squashed / (2 * largest) + 0.5)
    # dsteps/dw carries n / 2; the value's scale 1 / n and the 2 undo it.
    level = estimators.clipped_round(steps, 0.0, float(n))
    codes = 2 * level - n
    scale = jnp.full((1,) * x.ndim, 1 / n, jnp.float32)
    return _base.make(
      codes, scale, bits=self.k, levels=(-n, n), dtype=x.dtype, keep_scale=True
    )


@_base.REGISTRY.register
@dataclasses.dataclass(frozen=True)
class dorefa_activation(_base.Quantizer):  # noqa: N801 - called like a function
  """Activations of k bits in [0, 1] (DoReFa).

  Forward `y = round(n clip(x, 0, 1)) / n`, `n = 2^k - 1`, ties to even;
  backward `dx = dy * [0 <= x <= 1]`. At zero: 0.

  Attributes:
    k: bits, 1 to 8.

  Reference: Zhou et al., 2016 (arXiv 1606.06160). Differs from the paper in:
  the clip is part of the quantizer, as in the authors' code.
  """

  k: int = 2

  def __post_init__(self) -> None:
    """Checks the width."""
    _check("dorefa_activation", self.k)

  @property
  def bits(self) -> int:
    """K."""
    return self.k

  def __call__(
    self,
    x: jax.Array,
    *,
    progress: jax.Array | None = None,
    **variables: jax.Array,
  ) -> _base.Quantized:
    """Quantizes activations `x` of any shape."""
    del progress, variables
    n = 2**self.k - 1
    steps = x.astype(jnp.float32) * n
    codes = estimators.clipped_round(steps, 0.0, float(n))
    scale = jnp.full((1,) * x.ndim, 1 / n, jnp.float32)
    return _base.make(
      codes, scale, bits=self.k, levels=(0, n), dtype=x.dtype, keep_scale=True
    )
