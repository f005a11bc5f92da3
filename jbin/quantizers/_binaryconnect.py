"""BinaryConnect."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp

from jbin import errors, estimators, references
from jbin.quantizers import _base

_MODES = ("deterministic", "stochastic")


@_base.REGISTRY.register
@references.cites("binaryconnect")
@dataclasses.dataclass(frozen=True)
class binaryconnect(_base.Quantizer):  # noqa: N801 - called like a function
  """Weights of +-H, by their sign or by a draw (BinaryConnect).

  Deterministic: forward `y = H sign(w)`. Stochastic: while training, +H with
  the probability `clip((w / H + 1) / 2, 0, 1)`, else -H; without a `key`, as
  in evaluation, deterministic. Backward `dw = dy` either way. At zero: `+H`,
  or `-H` with `zero=-1` (the code rounds 1/2, and how depends on the version).

  Attributes:
    h: H; a number, or "glorot" for `sqrt(1.5 / (fan_in + fan_out))`.
    mode: "deterministic" or "stochastic".
    zero: the sign of zero, deterministic: +1 or -1.

  The paper keeps latent weights in [-H, H] after each step:
  `jbin.optimizers.clip_latents`.
  Reference: Courbariaux et al., 2015 (arXiv 1511.00363). Differs from the
  paper in: after stochastic training it evaluates the latent weights; do so by
  taking the quantizer off.

  Raises:
    errors.UserError: if an option is none of these, or H is not positive.
  """

  bits: int = dataclasses.field(default=1, init=False, repr=False)
  h: float | Literal["glorot"] = 1.0
  mode: Literal["deterministic", "stochastic"] = "deterministic"
  zero: float = 1.0

  def __post_init__(self) -> None:
    """Checks the options."""
    super().__post_init__()
    if self.mode not in _MODES:
      raise errors.UnknownName("mode", self.mode, _MODES)
    if isinstance(self.h, str):
      if self.h != "glorot":
        raise errors.UnknownName("h", self.h, ("glorot",))
    elif self.h <= 0:
      raise errors.UserError(f"binaryconnect: h must be positive, got {self.h}")
    if abs(self.zero) != 1:
      raise errors.UserError(
        f"binaryconnect: zero must be 1 or -1, got {self.zero}"
      )

  @property
  def stochastic(self) -> bool:
    """Whether a training call draws."""
    return self.mode == "stochastic"

  def limit(self, shape: tuple[int, ...]) -> float:
    """H for a kernel of that shape, output channels last."""
    if not isinstance(self.h, str):
      return float(self.h)
    taps = math.prod(shape[:-2])
    fans = math.prod(shape[:-1]) + taps * shape[-1]
    return math.sqrt(1.5 / max(fans, 1))

  def quantize(self, x: jax.Array, now: _base.Now) -> _base.Quantized:
    """Binary weights from `x`, any shape; output channels last if "glorot"."""
    limit = self.limit(x.shape)
    key = now.key
    if self.stochastic and key is not None:
      draw = jax.random.uniform(key, x.shape, jnp.float32)
      codes = estimators.stochastic_sign(x, draw, limit)
    else:
      codes = estimators.ste_sign(x, None, zero=self.zero)
    scale = jnp.full((1,) * x.ndim, limit, jnp.float32)
    return _base.signs(
      codes,
      scale,
    )
