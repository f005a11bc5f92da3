"""PACT: activations clipped at a learned height."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jbin import references
from jbin.quantizers import _base, _parts


@_base.REGISTRY.register
@references.cites("pact")
@dataclasses.dataclass(frozen=True)
class pact(_base.Quantizer):  # noqa: N801 - named as a function is called
  """Activations of k bits in [0, alpha], alpha learned (PACT).

  Forward `y = round(n clip(x, 0, alpha) / alpha) alpha / n`, `n = 2^k - 1`,
  ties to even; backward `dx = dy * [0 <= x < alpha]`,
  `dalpha = sum dy * [x >= alpha]`. At zero: 0, with the gradient.

  Attributes:
    bits: the width, 1 to 8.
    init: alpha at the start.

  The paper decays alpha (L2), which is the optimizer's part:
  `optimizers.decay_mask(model, "learned")`, or `config.optimizer.decay`. alpha
  is one number for the tensor, of shape (1,). Reference: Choi et al., 2018
  (arXiv 1805.06085). Differs from the paper in: that decay is not set by any
  default.
  """

  bits: int = 4
  init: float = 10.0

  def parameters(
    self,
    channels: int,
    x: jax.Array | None = None,
    key: jax.Array | None = None,
  ) -> Mapping[str, jax.Array]:
    """`alpha`, of shape (1,)."""
    del channels, x, key
    return {"alpha": jnp.full((1,), self.init, jnp.float32)}

  def quantize(self, x: jax.Array, now: _base.Now) -> _base.Quantized:
    """Quantizes activations `x` of any shape."""
    n = 2**self.bits - 1
    alpha = jnp.reshape(now["alpha"], (1,) * x.ndim)
    wide = x.astype(jnp.float32)
    clipped = jnp.where(wide < 0, 0.0, jnp.where(wide < alpha, wide, alpha))
    # A height of 0 clips all to code 0.
    height = jax.lax.stop_gradient(jnp.where(alpha == 0, 1.0, alpha))
    codes = jnp.round(clipped * n / height)
    return _base.make(
      _parts.straight_through(clipped, codes),
      height / n,
      bits=self.bits,
      levels=(0, n),
      dtype=x.dtype,
    )
