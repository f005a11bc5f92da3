"""ReActNet: signs about a learned threshold."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jbin import estimators, references
from jbin.quantizers import _base, _parts


@_base.REGISTRY.register
@references.cites("reactnet")
@dataclasses.dataclass(frozen=True)
class rsign(_base.Quantizer):  # noqa: N801 - named as a function is called
  """The sign about a learned threshold of each channel (ReActNet: activations).

  Forward `y = sign(u)`, `u = x + b`, one `b` for each entry of the last axis;
  backward `dx = dy * max(0, 2 - 2|u|)`, `db = sum dx` over the other axes.
  At `u = 0`: +1. Its kernels are `xnor()`.

  Attributes:
    shifted: whether the forward pass sees `b`. False: `y = sign(x)` while the
      gradient is that at `u`, as BiBench's linear layers have it; by default
      both passes see it, as in the paper.
    zero: the value at 0. PyTorch code has 0 there, which is no bit: products
      then take the value, not codes.

  Learned: `threshold` (C,), zeros at first.

  Reference: Liu et al., 2020 (arXiv 2003.03488). Differs from the paper in:
  `b` is added, as in the authors' code (the paper subtracts it).
  """

  bits: int = dataclasses.field(default=1, init=False, repr=False)
  shifted: bool = True
  zero: float = 1.0

  def parameters(
    self,
    channels: int,
    x: jax.Array | None = None,
    key: jax.Array | None = None,
  ) -> Mapping[str, jax.Array]:
    """Zeros."""
    del x, key
    return {"threshold": jnp.zeros(channels, jnp.float32)}

  def quantize(self, x: jax.Array, now: _base.Now) -> _base.Quantized:
    """Signs of activations `x`, channels last."""
    shifted = x + _parts.along_last(now["threshold"], x.ndim)
    codes = estimators.approx_sign(shifted, zero=self.zero)
    if not self.shifted:
      plain = estimators.approx_sign(x, zero=self.zero)
      codes = _parts.straight_through(codes, plain)
    return _base.signs(
      codes,
      None,
      dtype=x.dtype,
      zero=self.zero,
    )
