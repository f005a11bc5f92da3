"""Gradient descent."""

from __future__ import annotations

import optax

from jbin.optimizers import _base


@_base.REGISTRY.register
def sgd(
  momentum: float = 0.0, nesterov: bool = False
) -> optax.GradientTransformation:
  """Gradient descent, with momentum m <- momentum * m + g if it is above 0."""
  if not momentum:
    return optax.identity()
  return optax.trace(momentum, nesterov)
