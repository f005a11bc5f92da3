"""SiMaN's centred and shrunk latent weights."""

from __future__ import annotations

from typing import Any

import jax
import optax

from jbin import quantizers, references, schedules
from jbin.optimizers import _base, _latents

_PERCENT = schedules.linear(15.0, 0.0)


@references.cites("siman")
def shrink_latents(
  percent: schedules.Hyper = _PERCENT, mask: _base.Mask = None
) -> optax.GradientTransformationExtraArgs:
  """Centres latent weights and pulls their extremes in (SiMaN).

  Changes the update u so that `w + u` is
  `quantizers.shrink_latents(w + u, percent)` of each layer, rounded once; put
  it last in a chain.

  Args:
    percent: 0 to 50, a number or a schedule; the paper's falls from 15 to 0 in
      a straight line. 0 centres only.
    mask: which parameters; see `Mask`. None: all, output channels last.

  Reference: Lin et al., 2022 (arXiv 2102.07981). Differs from the code in:
  the code shrinks before each forward pass, here after each update, so the
  first pass sees the weights as they were made.
  """

  def rule(progress: jax.Array | None) -> _base.Rule:
    share = schedules.value(percent, progress)

    def shrunk(w: jax.Array, u: jax.Array, here: Any) -> jax.Array:
      function = lambda x: quantizers.shrink_latents(x, share)
      target = _latents.each(here, function, _base.moved(w, u))
      return _base.toward(w, target)

    return shrunk

  return _base.after(rule, mask)
