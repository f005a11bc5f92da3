"""From a checkpoint to a model's parameters."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from jbin import errors
from jbin.pretrained import _axes, _check, _source, _table


def load(
  source: str | Path, model: nnx.Module, *, fresh: Sequence[str] = ()
) -> dict[str, np.ndarray]:
  """A checkpoint's weights by our paths ("a/b/c"), in float32.

  Tensors are read one by one; those of 16 bits become float32, exactly.
  Nothing is silent: what a checkpoint may hold beside weights (buffers, second
  copies of shared tensors, which must be equal) is listed with its family.

  Args:
    source: a .safetensors file; a folder with one, or with the shards of
      model.safetensors.index.json; or a hub id, "org/name" or
      "org/name@revision", of which only such files are fetched.
    model: has the parameters, with Flax's layers or low-bit ones; it may be
      abstract (`nnx.eval_shape`).
    fresh: regular expressions of what does not come from the checkpoint, or
      is left in it: our paths, or its names. `("head/.*", "classifier.*")` is
      for a head of other classes.

  Returns:
    {path: array} of all parameters that are not fresh.

  Raises:
    errors.UserError: if there is no such source, or it does not fit; one
      message has all that is missing, unexpected, or of another shape.
  """
  return read(_source.find(source), model, fresh)


def read(
  where: _source.Source, model: nnx.Module, fresh: Sequence[str]
) -> dict[str, np.ndarray]:
  """`load`, of files that are found already."""
  shapes = _table.shapes(model)
  name, family = _table.family_of(shapes)
  wanted = {
    path: family.pieces(path, shape)
    for path, shape in shapes.items()
    if not _any(fresh, path)
  }
  with contextlib.ExitStack() as stack:
    found = named(family, where, stack)
    unexpected = _unexpected(family, shapes, found, fresh)
    names = {*shapes, *found, *(tensor.name for tensor in found.values())}
    faults = _check.faults(
      [piece for pieces in wanted.values() for piece in pieces],
      found,
      unexpected,
      {path: shapes[path] for path, pieces in wanted.items() if not pieces},
      _differing(family, shapes, where.config, found),
      [p for p in fresh if not any(_any([p], name) for name in names)],
    )
    if faults:
      raise errors.UserError(
        f"weights {where.said} are not of this model (family {name}):\n{faults}"
        "\n  fresh=... has regular expressions of what starts as the model has"
        " it, or is left in the checkpoint: our paths, or its names"
      )
    return {
      path: _assembled(shapes[path], pieces, found)
      for path, pieces in wanted.items()
    }


def restore(
  model: nnx.Module, source: str | Path, *, fresh: Sequence[str] = ()
) -> None:
  """Puts a checkpoint's weights into a model, in place; see `load`.

  Parameters keep their dtypes and shardings. An abstract model then has arrays
  for all that is not fresh.
  """
  put(model, load(source, model, fresh=fresh))


def put(model: nnx.Module, arrays: Mapping[str, np.ndarray]) -> None:
  """Sets parameters by path."""
  state = nnx.to_flat_state(nnx.state(model, nnx.Param))
  for path, leaf in state:
    array = arrays.get("/".join(map(str, path)))
    if array is not None:
      old: Any = leaf.get_value()
      sharding = getattr(old, "sharding", None)
      leaf.set_value(jax.device_put(array.astype(old.dtype), sharding))
  nnx.update(model, nnx.from_flat_state(state))


def _any(patterns: Sequence[str], *texts: str) -> bool:
  return any(re.fullmatch(p, text) for p in patterns for text in texts)


def named(
  family: _table.Family, where: _source.Source, stack: contextlib.ExitStack
) -> dict[str, _source.Tensor]:
  """A checkpoint's tensors, by the names that the family's table has.

  Raises:
    errors.UserError: for tensors that the family refuses, and names or copies
      that contradict each other.
  """
  found: dict[str, _source.Tensor] = {}
  for tensor in _source.tensors(where, stack):
    name = family.canonical(tensor.name)
    for pattern, why in family.refused:
      if re.fullmatch(pattern, name):
        raise errors.UserError(f"weights {where.said}: {tensor.name}: {why}")
    if name in found:
      raise errors.UserError(
        f"weights {where.said}: {found[name].name} and {tensor.name} are names"
        " of one tensor; leave one of them out"
      )
    found[name] = tensor
  for name, first in family.copies:
    both = [found[key].read() for key in (name, first) if key in found]
    if len(both) == 2 and not np.array_equal(both[0], both[1]):
      raise errors.UserError(
        f"weights {where.said}: {name} is not equal to {first}, and our models"
        " have one parameter for both"
      )
  return found


def _unexpected(
  family: _table.Family,
  shapes: _table.Shapes,
  found: Mapping[str, _source.Tensor],
  fresh: Sequence[str],
) -> list[str]:
  """What no parameter takes, fresh ones included."""
  known = {
    piece.name
    for path, shape in shapes.items()
    for piece in family.pieces(path, shape)
  }
  known |= {name for name, first in family.copies if first in known}
  patterns = (*family.ignored, *fresh)
  return [
    name
    for name, tensor in found.items()
    if name not in known and not _any(patterns, name, tensor.name)
  ]


def _differing(
  family: _table.Family,
  shapes: _table.Shapes,
  config: Mapping[str, Any],
  names: Collection[str],
) -> dict[str, tuple[Any, Any]]:
  """(ours, theirs) of arguments with which weights mean something else.

  Raises:
    errors.UserError: for settings that none of our models has.
  """
  kind = _table.kind(config)
  if kind is None:
    return {}
  if kind not in family.types:
    return {"type of model": (" or ".join(family.types), kind)}
  _, theirs = family.arguments(config, names)
  return {
    name: (ours, theirs[name])
    for name, ours in _table.unseen(family, shapes).items()
    if theirs[name] != ours
  }


def _assembled(
  shape: _axes.Shape,
  pieces: Sequence[_table.Piece],
  found: Mapping[str, _source.Tensor],
) -> np.ndarray:
  """One of our arrays, member by member."""
  array = np.empty(shape, np.float32)
  for piece in pieces:
    tensor = found[piece.name].read(piece.part)
    ours = _axes.to_ours(piece.axes, tensor, piece.shape)
    array[... if piece.member is None else piece.member] = ours
  return array
