"""An optimizer as the loop has it: parts in their order, and the rate."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jbin import schedules
from jbin.optimizers import _base, _decay


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """An optax transform of gradients to updates, and the rate that is in it."""

  tx: optax.GradientTransformationExtraArgs
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
    """New parameters, new state, and the learning rate at `progress`."""
    rate = _rate(self.learning_rate, progress)
    updates, state = self.tx.update(grads, state, params, progress=progress)
    return optax.apply_updates(params, updates), state, rate


def build(
  direction: optax.GradientTransformation,
  learning_rate: schedules.Hyper,
  weight_decay: float = 0.0,
  weight_decay_mode: str = "decoupled",
  clip_norm: float = 0.0,
  *,
  decay: _base.Mask = _decay.decayed,
  flips: optax.GradientTransformation | None = None,
  flipped: _base.Mask = None,
  after: Sequence[optax.GradientTransformation] = (),
) -> Optimizer:
  """[L2] -> [clip] -> direction -> [decoupled decay] -> -lr -> [after].

  Args:
    direction: what a member of the registry with that role makes.
    learning_rate: a number or a schedule of progress.
    weight_decay: over the parameters of `decay` only.
    weight_decay_mode: "l2", the gradient of 0.5 * weight_decay * sum w^2,
      clipped and passed through the optimizer like the loss's own (PokeBNN's);
      or "decoupled", added to the direction (AdamW's).
    clip_norm: largest global norm of the gradient; 0: no clipping.
    decay: a mask; as it is: kernels, see `decayed`.
    flips: makes the whole updates of the parameters of `flipped`, in place of
      direction, decay and rate (Bop); None: of none.
    flipped: a mask.
    after: what changes the updates last, with the parameters in sight.
  """
  spared = [] if flips is None else [flipped]
  decay = _base.inverse(_base.inverse(decay), *spared)
  decays = optax.add_decayed_weights(weight_decay, mask=decay)
  before: list[optax.GradientTransformation] = []
  core = [direction]
  if weight_decay and weight_decay_mode == "l2":
    before.append(decays)
  if clip_norm:
    before.append(optax.clip_by_global_norm(clip_norm))
  if weight_decay and weight_decay_mode == "decoupled":
    core.append(decays)
  core.append(_descend(learning_rate))
  if flips is not None:
    others = optax.masked(optax.chain(*core), _base.inverse(flipped))
    core = [others, flips]
  return Optimizer(optax.chain(*before, *core, *after), learning_rate)


def _rate(
  learning_rate: schedules.Hyper, progress: jax.typing.ArrayLike | None
) -> jax.Array:
  return jnp.asarray(schedules.value(learning_rate, progress), jnp.float32)


def _descend(
  learning_rate: schedules.Hyper,
) -> optax.GradientTransformationExtraArgs:
  """Updates -lr(progress) * direction."""

  def init(params: Any) -> optax.EmptyState:
    del params
    return optax.EmptyState()

  def update(
    updates: Any,
    state: Any,
    params: Any = None,
    *,
    progress: jax.typing.ArrayLike | None = None,
    **extra: Any,
  ) -> tuple[Any, Any]:
    del params, extra
    rate = _rate(learning_rate, progress)
    return jax.tree.map(lambda d: -(rate * d), updates), state

  return optax.GradientTransformationExtraArgs(init, update)
