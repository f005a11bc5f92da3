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
of other parameters pass unchanged, and they have no state. Parameters find
what is said of them by their path, so a mask of a whole model fits a part of
it too.
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


def paths(tree: Any) -> list[tuple[Any, ...]]:
  """The path of each leaf, as JAX has it."""
  return [path for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def name(path: tuple[Any, ...]) -> str:
  """blocks/0/kernel; without what an NNX variable adds to its own path."""
  text = jax.tree_util.keystr(path, simple=True, separator="/")
  return text.removesuffix("/value")


def spread(mask: Mask, params: Any) -> list[Any]:
  """What the mask says of each leaf of `params`, in their order.

  Raises:
    errors.UserError: naming the parameters of which it says nothing.
  """
  if mask is None:
    mask = True
  if callable(mask):
    mask = mask(params)
  said = dict(jax.tree_util.tree_leaves_with_path(mask))
  found: list[Any] = []
  unsaid: list[str] = []
  for path in paths(params):
    above = (path[:end] for end in range(len(path), -1, -1))
    at = next((part for part in above if part in said), None)
    if at is None:
      unsaid.append(name(path))
    else:
      found.append(said[at])
  if unsaid:
    raise errors.UserError(
      f"the mask says nothing of {_first(unsaid)}; make it of the model that"
      " is trained, as it is then: latent_mask(model), or a tree with a leaf"
      " for each parameter"
    )
  return found


def _first(names: list[str], most: int = 3) -> str:
  """The first names, and how many more there are."""
  more = len(names) - most
  return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


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
    errors.UserError: if optax's `params` were left out, or are not those of
      the updates.
  """
  if params is None:
    raise errors.UserError(
      "this optimizer looks at the parameters; call"
      " tx.update(grads, state, params)"
    )
  leaves, tree = jax.tree.flatten(updates)
  weights = jax.tree.leaves(params)
  if len(weights) != len(leaves):
    mine, theirs = (set(map(name, paths(part))) for part in (params, updates))
    raise errors.UserError(
      f"{_first(sorted(mine ^ theirs))}: among the parameters or among the"
      " updates only; give tx.update the parameters that the gradients are of"
    )
  steered = [
    update(w, u, here) if here else u
    for w, u, here in zip(weights, leaves, spread(mask, params), strict=True)
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
