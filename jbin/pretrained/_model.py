"""From a checkpoint to the model that it is of."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from jbin import errors
from jbin.pretrained import _load, _source, _table


def model(
  source: str | Path,
  *,
  fresh: Sequence[str] = (),
  resize: bool = False,
  seed: int = 0,
  **overrides: Any,
) -> nnx.Module:
  """The model that a checkpoint's config.json describes, with its weights.

  Args:
    source: a folder, a file with its config.json beside it, or a hub id; as
      for `load`.
    fresh: as for `load`.
    resize: as for `load`, with an image_size or a max_length of one's own.
    seed: of what is fresh, and of dropout.
    **overrides: arguments of the model's factory that replace what config.json
      says, or that are not of the weights: rates of dropout are 0 if they are
      not named here.

  Raises:
    errors.UserError: if there is no config.json, or our models do not do what
      it says; and as for `load`.
  """
  from jbin import models

  where = _source.find(source)
  kind = _table.kind(where.config)
  made = [_table.REGISTRY.get(name)() for name in _table.REGISTRY]
  fitting = [family for family in made if kind in family.types]
  if not fitting:
    known = sorted({kind for family in made for kind in family.types})
    raise errors.UserError(
      f"weights {where.said}: the config.json beside them"
      f" {f'is of a {kind!r}' if kind else 'does not say what they are of'};"
      f" there are models for {', '.join(known)}. Make your own model, and give"
      " it to pretrained.restore"
    )
  with contextlib.ExitStack() as stack:
    tensors = _source.tensors(where, stack)
    names = [fitting[0].canonical(tensor.name) for tensor in tensors]
    name, arguments = _load.arguments(fitting[0], where, names)
    factory = models.REGISTRY.get(name)

    def make() -> nnx.Module:
      return factory(**{**arguments, **overrides}, rngs=nnx.Rngs(seed))

    found = nnx.eval_shape(make)
    arrays = _load.read(
      where, tensors, found, fresh=fresh, resize=resize, asked=overrides
    )
  _load.put(found, arrays)
  _fill(found, make)
  return found


def _fill(model: nnx.Module, make: Callable[[], nnx.Module]) -> None:
  """Makes what is still abstract, and no more: XLA drops the other draws."""
  state = nnx.to_flat_state(nnx.state(model))
  left = [
    (path, leaf)
    for path, leaf in state
    if isinstance(leaf.get_value(), jax.ShapeDtypeStruct)
  ]
  if not left:
    return

  @jax.jit
  def values() -> list[Any]:
    made = dict(nnx.to_flat_state(nnx.state(make())))
    return [made[path].get_value() for path, _ in left]

  for (_, leaf), value in zip(left, values(), strict=True):
    leaf.set_value(value)
  nnx.update(model, nnx.from_flat_state(state))
