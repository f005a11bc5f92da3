"""Bop: binary weights without latent ones."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jbin import references, schedules
from jbin.optimizers import _base


class BopState(NamedTuple):
  """The moving mean m of the gradient, float32, where the mask reaches."""

  m: Any


@_base.REGISTRY.register
@_base.plays("flips")
@references.cites("bop")
def bop(
  threshold: schedules.Hyper = 1e-8,
  gamma: schedules.Hyper = 1e-4,
  mask: _base.Mask = None,
) -> optax.GradientTransformationExtraArgs:
  """Bop: weights of +-1 that flip where the gradient persists.

  `m <- m + gamma * (g - m)`, m = 0 at first and not corrected for it; then
  `w <- -w where w * m > threshold`. A tie keeps w. The whole update: no
  learning rate comes after it. +-1 stays exact. A weight that is not +-1 yet
  becomes its sign (0: +1) before it flips: with the first update, or, where
  that sum is rounded, with the second. The gradient is the one with respect to
  w, so its quantizer must let it pass at +-1: `noop`, `sign` and `xnor` do,
  the triangle of `bireal` does not.

  Args:
    threshold: 0 or more, of the size of a layer's gradients.
    gamma: 0 to 1, how fast m follows.
    mask: which parameters; see `Mask`. None: all. Pass the others to another
      optimizer: `optax.masked(optax.adam(0.01), others)`.

  Either may be a schedule; the paper's CIFAR-10 gamma falls tenfold every 100
  of 500 epochs. Reference: Helwegen et al., 2019 (arXiv 1906.02107).
  """

  def init(params: Any) -> BopState:
    leaves, tree = jax.tree.flatten(params)
    m = [
      jnp.zeros_like(w, jnp.float32) if here else optax.MaskedNode()
      for w, here in zip(leaves, _base.spread(mask, params), strict=True)
    ]
    return BopState(tree.unflatten(m))

  def update(
    updates: Any,
    state: Any,
    params: Any = None,
    *,
    progress: jax.Array | None = None,
    **extra: Any,
  ) -> tuple[Any, BopState]:
    del extra
    rate = schedules.value(gamma, progress)
    least = schedules.value(threshold, progress)
    old, tree = jax.tree.flatten(state.m)
    new: list[jax.Array] = []

    def flipped(w: jax.Array, g: jax.Array, here: Any) -> jax.Array:
      del here
      m = old[len(new)]
      m = m + rate * (g.astype(jnp.float32) - m)
      new.append(m)
      sign = jnp.where(w < 0, -1.0, 1.0).astype(jnp.float32)
      flip = (jnp.abs(w) == 1) & (sign * m > least)
      target = jnp.where(flip, -sign, sign)
      return _base.toward(w, target)

    updates = _base.steer(updates, params, mask, flipped)
    return updates, BopState(tree.unflatten(new))

  return optax.GradientTransformationExtraArgs(init, update)
