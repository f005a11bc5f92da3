"""BinaryConnect's clipping of latent weights."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jbin import references, schedules
from jbin.optimizers import _base, _latents


@references.cites("binaryconnect")
def clip_latents(
  limit: schedules.Hyper = 1.0, mask: _base.Mask = None
) -> optax.GradientTransformationExtraArgs:
  """Keeps latent weights in [-limit, limit] after each update.

  Changes the update u so that `w + u` is `clip(w + u, -limit, limit)`; put it
  last in a chain. What is inside is not touched, bit for bit. Beyond, where
  the gradient of most estimators is 0, a weight would stay for good.

  No weight ends outside if it began inside: one that is stopped ends at the
  limit, or, as a float32 sum may have to be rounded, one unit in the last
  place inside. One that began outside is there after a step or two.

  Args:
    limit: a positive number or schedule, in units of the quantizer's own
      level where that is fixed (BinaryConnect's H), else of 1; rounded to the
      parameter's dtype.
    mask: which parameters; see `Mask`. None: all.

  Reference: Courbariaux et al., 2015 (arXiv 1511.00363). Its learning rate
  grows by 1/H for a Glorot H, which is not done here.
  """

  def rule(progress: jax.Array | None) -> _base.Rule:
    bound = schedules.value(limit, progress)

    def clipped(w: jax.Array, u: jax.Array, here: Any) -> jax.Array:
      level = here.level if isinstance(here, _latents.Latent) else 1.0
      return _clipped(w, u, jnp.asarray(bound * level, w.dtype))

    return clipped

  return _base.after(rule, mask)


def _clipped(w: jax.Array, u: jax.Array, limit: jax.Array) -> jax.Array:
  there = _base.moved(w, u)
  step = _base.toward(w, jnp.clip(there, -limit, limit))
  end = _base.moved(w, step)
  # Rounded away from zero: the gradient of a window would end there.
  back = jnp.nextafter(step, -jnp.sign(end).astype(step.dtype) * jnp.inf)
  step = jnp.where(jnp.abs(end) > limit, back, step)
  return jnp.where(jnp.abs(there) < limit, u.astype(step.dtype), step)
