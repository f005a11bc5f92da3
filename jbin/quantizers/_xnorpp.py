"""XNOR-Net++: signs with a learned scale."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jbin import estimators, references, schedules
from jbin.quantizers import _base, _parts


@_base.REGISTRY.register
@references.cites("xnornetpp")
@dataclasses.dataclass(frozen=True)
class xnorpp(_base.Quantizer):  # noqa: N801 - named as a function is called
  """Sign times a learned scale of each output channel (XNOR-Net++: kernels).

  Forward `y = s * sign(w)`, one `s` for each entry of the last axis; backward
  `dw = dy * s * [|w| <= 1]`, `ds = sum dy * sign(w)` over the other axes.
  At zero: `+s`. Activations are `sign()`.

  Attributes:
    edge: "closed", or "open": no gradient at `|w| = 1` itself, as BiBench's
      linear layers have it for their inputs.
    zero: the value at 0, before the scale. PyTorch code has 0 there, which is
      no bit: products then take the value, not codes.

  Learned: `scale` (C,), ones at first. The paper's factors for each row and
  column of the output are no property of a kernel: a layer has those.

  Reference: Bulat and Tzimiropoulos, 2019 (arXiv 1909.13863). Differs from the
  paper in: the factors of rows and columns are `nn.SpatialScale`'s.
  """

  bits: int = dataclasses.field(default=1, init=False, repr=False)
  edge: estimators.Edge = "closed"
  zero: float = 1.0

  def parameters(
    self,
    channels: int,
    x: jax.Array | None = None,
    key: jax.Array | None = None,
  ) -> Mapping[str, jax.Array]:
    """Ones."""
    del x, key
    return {"scale": jnp.ones(channels, jnp.float32)}

  @property
  def window(self) -> schedules.Hyper | None:
    """1."""
    return 1.0

  def quantize(self, x: jax.Array, now: _base.Now) -> _base.Quantized:
    """Scaled signs of a kernel `x` whose last axis is the output channel."""
    return _base.signs(
      estimators.ste_sign(
        x, 1.0, edge=self.edge, zero=self.zero, keep=now.keep
      ),
      _parts.along_last(now["scale"], x.ndim),
      dtype=x.dtype,
      keep_scale=True,
      zero=self.zero,
    )
