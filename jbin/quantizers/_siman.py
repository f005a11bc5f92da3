"""SiMaN: the larger half of the weights is +1, the smaller half -1."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jbin import estimators, references
from jbin.quantizers import _base, _parts

_EPS = 1e-5  # beside a variance


def shrink_latents(w: jax.Array, percent: float | jax.Array) -> jax.Array:
  """Centred latent weights, the extreme magnitudes pulled in (SiMaN).

  `u = w - mean` over all axes but the last; `y = sign(u) * clip(|u|, lo, hi)`,
  `lo` and `hi` the percentiles `percent` and `100 - percent` of |u| over the
  whole kernel (linear between neighbours). 0 stays 0. The authors' code puts y
  in place of w before every forward pass, evaluation included; here it is a
  step of the optimizer's.

  Args:
    w: the latent weights (..., out), floating; the result has its dtype.
    percent: 0 to 50, traced or not; the paper's falls from 15 to 0. 0 centres.
  """
  u = _parts.center(w, _parts.other_axes(w.ndim, (-1,)))
  share = jnp.asarray(percent, jnp.float32) / 100
  low, high = jnp.quantile(jnp.abs(u), jnp.stack([share, 1 - share]))
  return (jnp.sign(u) * jnp.clip(jnp.abs(u), low, high)).astype(w.dtype)


@_base.REGISTRY.register
@references.cites("siman")
@dataclasses.dataclass(frozen=True)
class siman_weight(_base.Quantizer):  # noqa: N801 - called like a function
  """Plus for the larger half of each filter, minus for the rest (SiMaN).

  `v = (w - mean) / sqrt(var + 1e-5)` over all axes but the last (unbiased
  variance), q the `floor(n / 2)`-th largest |v| of an output channel. Forward
  `y = alpha * (+1 if |v| >= q else -1)`; backward `dv = dy * alpha * sign(v)`,
  identity to |v| with sign(0) = 0, on through the standardization, and
  `dalpha = sum dy * y / alpha`. Magnitudes that equal q are all +1; a constant
  channel is +1. Nothing depends on the sign of a weight.

  Attributes:
    learned_scale: whether there is an `alpha`; without it the scale is 1.

  Learned: `scale` (C,), alpha, from mean|w|.

  At zero: as any other magnitude. The paper's {0, 1} differs from this {-1, +1}
  by a shift. `shrink_latents` is the other half of the method. Reference: Lin
  et al., 2022 (arXiv 2102.07981).
  Differs from the code in: the rule for ties (the code's sort breaks them),
  the scale belongs to the kernel, so a bias is not multiplied by it, and the
  latent weights are not overwritten in the forward pass.
  """

  bits: int = dataclasses.field(default=1, init=False, repr=False)
  learned_scale: bool = True

  def parameters(
    self,
    channels: int,
    x: jax.Array | None = None,
    key: jax.Array | None = None,
  ) -> Mapping[str, jax.Array]:
    """Alpha, from the kernel."""
    del key
    if not self.learned_scale:
      return {}
    return {"scale": _parts.initial_magnitude(x, (-1,), (channels,))}

  def quantize(self, x: jax.Array, now: _base.Now) -> _base.Quantized:
    """Quantizes a kernel `x` whose last axis is the output channel."""
    over = _parts.other_axes(x.ndim, (-1,))
    v = _parts.standardize(x.astype(jnp.float32), over, eps=_EPS)
    size = _parts.absolute(v)
    fixed = jnp.reshape(jax.lax.stop_gradient(size), (-1, x.shape[-1]))
    place = fixed.shape[0] - max(fixed.shape[0] // 2, 1)
    middle = jnp.sort(fixed, axis=0)[place]
    scale = None
    if self.learned_scale:
      scale = _parts.along_last(now["scale"], x.ndim)
    return _base.signs(
      estimators.ste_sign(size - _parts.along_last(middle, x.ndim), None),
      scale,
      dtype=x.dtype,
      keep_scale=True,
    )


@_base.REGISTRY.register
@references.cites("siman")
@dataclasses.dataclass(frozen=True)
class siman_activation(_base.Quantizer):  # noqa: N801 - called like a function
  """Signs of standardized activations (SiMaN).

  `v = (x - mean) / sqrt(var + 1e-5)` of each example (unbiased variance).
  Forward `y = sign(v)`; backward `dv = dy * max(0, 2 - 2|v|)`, on through the
  standardization. At `v = 0`: +1. `recu_activation` is the same without the
  mean.

  Attributes:
    zero: the value at 0. PyTorch code has 0 there, which is no bit: products
      then take the value, not codes.

  Reference: Lin et al., 2022 (arXiv 2102.07981). Differs from the code in
  nothing but sign(0).
  """

  bits: int = dataclasses.field(default=1, init=False, repr=False)
  zero: float = 1.0

  def quantize(self, x: jax.Array, now: _base.Now) -> _base.Quantized:
    """Signs of activations `x`, examples first."""
    over = _parts.other_axes(x.ndim, (0,))
    v = _parts.standardize(x.astype(jnp.float32), over, eps=_EPS)
    return _base.signs(
      estimators.approx_sign(v, zero=self.zero),
      None,
      dtype=x.dtype,
      zero=self.zero,
    )
