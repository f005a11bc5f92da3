"""Adam and AdamW."""

from __future__ import annotations

import optax

from jbin.optimizers import _base


@_base.REGISTRY.register
def adam(
  b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> optax.GradientTransformation:
  """Adam: m / (sqrt(v) + eps), both moments corrected for their start at 0."""
  return optax.scale_by_adam(b1, b2, eps)


@_base.REGISTRY.register
def adamw(
  b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> optax.GradientTransformation:
  """Adam; with weight_decay_mode "decoupled" (the default) it is AdamW."""
  return optax.scale_by_adam(b1, b2, eps)
