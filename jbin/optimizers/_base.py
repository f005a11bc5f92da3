"""The registry, masks, and updates that end at a given place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import optax

from jbin import errors, registry

REGISTRY = registry.Registry("optimizer")

Mask = Any
"""Which parameters a transformation changes.

A tree as theirs, or the upper part of one, of booleans or of what
`latent_mask` gives; a function that makes one of them; None: all. The updates
of other parameters pass unchanged, and they have no state.
"""

Role = Literal["direction", "flips", "after"]

M = TypeVar("M", bound=Callable[..., Any])


def plays(part: Role) -> Callable[[M], M]:
  """Decorator: what a member of the registry is for; see `role`."""

  def mark(member: M) -> M:
    member.role = part  # pyright: ignore[reportFunctionMemberAccess]
    return member

  return mark


def role(name: str) -> Role:
  """What the optimizer of that name is for.

  "direction": of every parameter, before the learning rate; "flips": the
  whole update of 1-bit latents; "after": a change of latents after an update.

  Raises:
    errors.UnknownName: if there is none.
  """
  return getattr(REGISTRY.get(name), "role", "direction")


def spread(mask: Mask, params: Any) -> list[Any]:
  """What the mask says of each leaf of `params`, in their order."""
  if mask is None:
    mask = True
  if callable(mask):
    mask = mask(params)
  every = jax.tree.map(
    lambda here, part: jax.tree.map(lambda _: here, part), mask, params
  )
  return jax.tree.leaves(every)


def inverse(*masks: Mask) -> Callable[[Any], Any]:
  """A mask of booleans: what no mask of these reaches."""

  def make(params: Any) -> Any:
    found = zip(*(spread(mask, params) for mask in masks), strict=True)
    tree = jax.tree.structure(params)
    return tree.unflatten([not any(here) for here in found])

  return make


def moved(w: jax.Array, u: jax.Array) -> jax.Array:
  """The parameter after its update, as `optax.apply_updates` has it."""
  return (w + u).astype(w.dtype)


def toward(w: jax.Array, target: jax.Array) -> jax.Array:
  """The update that ends at `target`, in float32 for narrower parameters.

  `w + (target - w)` is `target` where it is between w/2 and 2w, where w is 0,
  and in bfloat16; elsewhere within one unit in the last place of the larger.
  """
  wide = jnp.promote_types(w.dtype, jnp.float32)
  return target.astype(wide) - w.astype(wide)


Rule = Callable[[jax.Array, jax.Array, Any], jax.Array]
"""(parameter, update, what the mask says) -> the update in its place."""


def steer(
  updates: Any,
  params: Any,
  mask: Mask,
  update: Rule,
) -> Any:
  """The updates with `update(w, u, here)` for u where the mask says so.

  Raises:
    errors.UserError: if optax's `params` were left out.
  """
  if params is None:
    raise errors.UserError(
      "this optimizer looks at the parameters; call"
      " tx.update(grads, state, params)"
    )
  leaves, tree = jax.tree.flatten(updates)
  steered = [
    update(w, u, here) if here else u
    for w, u, here in zip(
      jax.tree.leaves(params), leaves, spread(mask, params), strict=True
    )
  ]
  return tree.unflatten(steered)


def after(
  rule: Callable[[jax.Array | None], Rule], mask: Mask
) -> optax.GradientTransformationExtraArgs:
  """A transformation without state: `steer` by the rule of a progress."""

  def init(params: Any) -> optax.EmptyState:
    del params
    return optax.EmptyState()

  def update(
    updates: Any,
    state: Any,
    params: Any = None,
    *,
    progress: jax.Array | None = None,
    **extra: Any,
  ) -> tuple[Any, Any]:
    del extra
    return steer(updates, params, mask, rule(progress)), state

  return optax.GradientTransformationExtraArgs(init, update)
