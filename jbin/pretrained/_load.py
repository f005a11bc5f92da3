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
  source: str | Path,
  model: nnx.Module,
  *,
  fresh: Sequence[str] = (),
  resize: bool = False,
) -> dict[str, np.ndarray]:
  """A checkpoint's weights by our paths ("a/b/c"), in float32.

  Tensors are read one by one; those of 16 bits become float32, exactly.
  Nothing is silent: what a checkpoint may hold beside weights (buffers, second
  copies of shared tensors, which must be equal) is listed with its family. Of
  what shapes do not show (heads, eps, strides, ...), the model must have what
  config.json says, if there is one.

  Args:
    source: a .safetensors file; a folder with one, or with the shards of
      model.safetensors.index.json; or a hub id, "org/name" or
      "org/name@revision", of which only such files are fetched.
    model: has the parameters, with Flax's layers or low-bit ones; it may be
      abstract (`nnx.eval_shape`).
    fresh: regular expressions of what does not come from the checkpoint, or
      is left in it: our paths, its names, or arguments that stay the model's
      whatever config.json says. `("head/.*", "classifier.*")` is for a head of
      other classes.
    resize: whether tables of positions are made to fit. Those of images (ViT,
      NesT) by `jax.image.resize`'s "cubic", which blurs as it shrinks
      (PyTorch's does not, and has another cubic), the class token's row as it
      is; a text's (BERT) by its first rows, never to more.

  Returns:
    {path: array} of all parameters that are not fresh.

  Raises:
    errors.UserError: if there is no such source, or it does not fit; one
      message has all that is missing, unexpected, or of another shape.
  """
  where = _source.find(source)
  with contextlib.ExitStack() as stack:
    tensors = _source.tensors(where, stack)
    return read(where, tensors, model, fresh=fresh, resize=resize)


def read(
  where: _source.Source,
  tensors: Sequence[_source.Tensor],
  model: nnx.Module,
  *,
  fresh: Sequence[str],
  resize: bool,
  asked: Collection[str] = (),
) -> dict[str, np.ndarray]:
  """`load`, of files that are open; `asked` are arguments not to compare."""
  shapes = _table.shapes(model)
  name, family = _table.family_of(model, shapes)
  found = _named(family, where, tensors)
  wanted = {
    path: family.pieces(path, shape)
    for path, shape in shapes.items()
    if not _any(fresh, path)
  }
  own = family.unseen(model, {path: shapes[path] for path in wanted})
  left = _unexpected(family, shapes, found, fresh)
  head = _other_head(family, where.config, wanted, found, left)
  names = {*shapes, *found, *own, *(tensor.name for tensor in tensors)}
  case = _check.Case(
    shapes,
    wanted,
    found,
    [name for name in left if name not in head[1]],
    head,
    {
      name: pair
      for name, pair in differing(family, own, where, found).items()
      if name not in asked and not _any(fresh, name)
    },
    fresh,
    [p for p in fresh if not any(_any([p], name) for name in names)],
    family.positions,
    resize,
  )
  if faults := _check.faults(case):
    raise errors.UserError(
      f"weights {where.said} are not of this model (family {name}):\n{faults}"
    )
  return {
    path: _assembled(where.said, family, shapes[path], pieces, found)
    for path, pieces in wanted.items()
  }


def restore(
  model: nnx.Module,
  source: str | Path,
  *,
  fresh: Sequence[str] = (),
  resize: bool = False,
) -> None:
  """Puts a checkpoint's weights into a model, in place; see `load`.

  Parameters keep their dtypes and shardings. An abstract model then has arrays
  for all that is not fresh.
  """
  put(model, load(source, model, fresh=fresh, resize=resize))


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


def _named(
  family: _table.Family,
  where: _source.Source,
  tensors: Sequence[_source.Tensor],
) -> dict[str, _source.Tensor]:
  """A checkpoint's tensors, by the names that the family's table has.

  Raises:
    errors.UserError: for tensors that the family refuses, and two of one name.
  """
  found: dict[str, _source.Tensor] = {}
  for tensor in tensors:
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


def _other_head(
  family: _table.Family,
  config: Mapping[str, Any],
  wanted: Mapping[str, Sequence[_table.Piece]],
  found: Mapping[str, _source.Tensor],
  unexpected: Collection[str],
) -> tuple[str, list[str]]:
  """(architecture, tensors) of a head that does something else than ours.

  Nothing, if the caller leaves them all in the checkpoint.
  """
  needed = {piece.name for pieces in wanted.values() for piece in pieces}
  said = config.get("architectures")
  for kind in said if isinstance(said, list) else ():
    if pattern := family.heads.get(str(kind)):
      names = [name for name in found if re.fullmatch(pattern, name)]
      return kind, [n for n in names if n in needed or n in unexpected]
  return "", []


def arguments(
  family: _table.Family, where: _source.Source, names: Collection[str]
) -> tuple[str, dict[str, Any]]:
  """The family's, from config.json and the tensors' names.

  Raises:
    errors.UserError: for settings that none of our models has, and values that
      are none.
  """
  try:
    return family.arguments(where.config, names)
  except (AttributeError, LookupError, TypeError, ZeroDivisionError) as error:
    raise errors.UserError(
      f"weights {where.said}: config.json has a value that its key cannot have"
      f" ({type(error).__name__}: {error}); copy it again"
    ) from error


def differing(
  family: _table.Family,
  own: Mapping[str, Any],
  where: _source.Source,
  names: Collection[str],
) -> dict[str, tuple[Any, Any]]:
  """(ours, theirs) of arguments with which weights mean something else.

  Raises:
    errors.UserError: as `arguments`.
  """
  kind = _table.kind(where.config)
  if kind is None:
    return {}
  if kind not in family.types:
    return {"type of model": (" or ".join(family.types), kind)}
  _, theirs = arguments(family, where, names)
  return {
    name: (ours, theirs[name])
    for name, ours in own.items()
    if theirs[name] != ours
  }


def _assembled(
  said: str,
  family: _table.Family,
  shape: _axes.Shape,
  pieces: Sequence[_table.Piece],
  found: Mapping[str, _source.Tensor],
) -> np.ndarray:
  """One of our arrays, member by member.

  Raises:
    errors.UserError: if a tensor that should be a copy is not.
  """
  array = np.empty(shape, np.float32)
  for piece in pieces:
    tensor = found[piece.name].read(piece.part)
    for name, first in family.copies:
      if first != piece.name or name not in found:
        continue
      if not np.array_equal(found[name].read(piece.part), tensor):
        raise errors.UserError(
          f"weights {said}: {found[name].name} is not equal to"
          f" {found[first].name}, and our models have one parameter for both"
        )
    if found[piece.name].shape != piece.whole:
      for path, how in family.positions.items():
        if re.fullmatch(path, piece.path):
          tensor = how.run(tensor, piece.shape)
    ours = _axes.to_ours(piece.axes, tensor, piece.shape)
    array[... if piece.member is None else piece.member] = ours
  return array
