"""ProxQuant's regularizer, as a loss."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jbin import references
from jbin.regularizers import _base


@_base.REGISTRY.register
@references.cites("proxquant")
def proxquant(weights: Any, strength: float | jax.Array = 1.0) -> jax.Array:
  """How far weights are from +-1: strength * mean ||w| - 1| (ProxQuant).

  The sum over layers of each one's mean; its subgradient is
  `strength * sign(|w| - 1) * sign(w) / n`, 0 at -1, 0 and +1. The method
  itself does not descend on it, but takes its proximal step
  (`optimizers.proxquant`); this reports it, and is the other way to train.

  Args:
    weights: a tree of latent weights, floating, one tensor for each layer.
    strength: 0 or more, traced or not.

  Returns:
    A float32 scalar; 0 for an empty tree.

  Reference: Bai et al., 2019 (arXiv 1810.00861).
  """

  def part(w: jax.Array) -> jax.Array:
    gap = w * jnp.sign(w) - 1
    return (gap * jnp.sign(gap)).mean()

  return strength * _base.total(part, weights)
