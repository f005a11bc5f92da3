"""Optimizers: how a gradient becomes an update.

A member of the registry gives the direction (an optax transform, not yet
scaled); `build` puts clipping and weight decay around it and holds the
learning rate, which is a number or a schedule of progress like any other
hyper-parameter.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jbin import registry, schedules

REGISTRY = registry.Registry("optimizer")


@REGISTRY.register
def adam(
  b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> optax.GradientTransformation:
  """Adam: m / (sqrt(v) + eps), both moments corrected for their start at 0."""
  return optax.scale_by_adam(b1, b2, eps)


@REGISTRY.register
def adamw(
  b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> optax.GradientTransformation:
  """Adam; with weight_decay_mode "decoupled" (the default) it is AdamW."""
  return optax.scale_by_adam(b1, b2, eps)


@REGISTRY.register
def sgd(
  momentum: float = 0.0, nesterov: bool = False
) -> optax.GradientTransformation:
  """Gradient descent, with momentum m <- momentum * m + g if it is above 0."""
  if not momentum:
    return optax.identity()
  return optax.trace(momentum, nesterov)


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """An optax transform of gradients and the learning rate apart from it."""

  tx: optax.GradientTransformation
  learning_rate: schedules.Hyper

  def init(self, params: Any) -> optax.OptState:
    """The state at step 0, for parameters of any pytree."""
    return self.tx.init(params)

  def update(
    self,
    grads: Any,
    state: optax.OptState,
    params: Any,
    progress: jax.typing.ArrayLike,
  ) -> tuple[Any, optax.OptState, jax.Array]:
    """New parameters w - lr(progress) * direction, new state, and that lr."""
    rate = jnp.asarray(
      schedules.value(self.learning_rate, progress), jnp.float32
    )
    direction, state = self.tx.update(grads, state, params)
    params = jax.tree.map(
      lambda w, d: w - (rate * d).astype(w.dtype), params, direction
    )
    return params, state, rate


def build(
  direction: optax.GradientTransformation,
  learning_rate: schedules.Hyper,
  weight_decay: float = 0.0,
  weight_decay_mode: str = "decoupled",
  clip_norm: float = 0.0,
) -> Optimizer:
  """The optimizer: [L2] -> [clip] -> direction -> [decoupled decay] -> -lr.

  Args:
    direction: what a member of the registry makes.
    learning_rate: a number or a schedule of progress.
    weight_decay: over parameters with two axes or more only.
    weight_decay_mode: "l2", the gradient of 0.5 * weight_decay * sum w^2,
      clipped and passed through the optimizer like the loss's own (PokeBNN's);
      or "decoupled", added to the direction (AdamW's).
    clip_norm: largest global norm of the gradient; 0: no clipping.
  """
  decay = optax.add_decayed_weights(weight_decay, mask=decayed)
  chain = []
  if weight_decay and weight_decay_mode == "l2":
    chain.append(decay)
  if clip_norm:
    chain.append(optax.clip_by_global_norm(clip_norm))
  chain.append(direction)
  if weight_decay and weight_decay_mode == "decoupled":
    chain.append(decay)
  return Optimizer(optax.chain(*chain), learning_rate)


def decayed(params: Any) -> Any:
  """Which parameters weight decay reaches: those of two axes and more."""
  return jax.tree.map(lambda w: jnp.ndim(w) > 1, params)
