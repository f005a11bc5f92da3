"""From a model's parameters to a checkpoint that others read."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from flax import nnx

from jbin import errors
from jbin.pretrained import _axes, _source, _table


def save(
  model: nnx.Module, path: str | Path, *, shard_bytes: int = 5 * 10**9
) -> None:
  """Writes a float model as the checkpoint that transformers reads.

  The folder gets config.json and model.safetensors, or shards and their index.
  `load` gives the same arrays back, bit for bit.

  Args:
    model: of a family that `load` knows, before rules.
    path: of the folder, which has no weights yet.
    shard_bytes: the most of one file, unless a single tensor has more.

  Raises:
    errors.UserError: if the folder has weights, or the model has parameters or
      settings that such checkpoints do not.
  """
  folder = Path(path).expanduser()
  shapes = _table.shapes(model)
  name, family = _table.family_of(shapes)
  pieces = {p: family.pieces(p, shape) for p, shape in shapes.items()}
  unknown = [path for path, made_of in pieces.items() if not made_of]
  if unknown:
    raise errors.UserError(
      f"checkpoints of the family {name} have nothing for {unknown[0]}"
      f" ({len(unknown)} of {len(pieces)} parameters); of a low-bit model, save"
      " jbin.dequantize(model)"
    )
  config = family.config(model, shapes)
  if folder.is_dir() and any(folder.glob("*.safetensors*")):
    raise errors.UserError(
      f"{folder} has weights already; remove them, or name another folder"
    )
  folder.mkdir(parents=True, exist_ok=True)
  theirs: dict[str, list[_table.Piece]] = {}
  for made_of in pieces.values():
    for piece in made_of:
      theirs.setdefault(piece.name, []).append(piece)
  _write(model, theirs, folder, shard_bytes)
  (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _write(
  model: nnx.Module,
  theirs: dict[str, list[_table.Piece]],
  folder: Path,
  shard_bytes: int,
) -> None:
  """One file, or shards of at most so many bytes and their index."""
  import safetensors.numpy

  state = nnx.to_flat_state(nnx.state(model, nnx.Param))
  arrays = {
    "/".join(map(str, path)): np.asarray(leaf.get_value(), np.float32)
    for path, leaf in state
  }
  shards = list(_shards(theirs, shard_bytes))
  place: dict[str, str] = {}
  for i, names in enumerate(shards, 1):
    file = _source.SINGLE
    if len(shards) > 1:
      file = f"model-{i:05}-of-{len(shards):05}.safetensors"
    made = {name: _tensor(arrays, theirs[name]) for name in names}
    safetensors.numpy.save_file(made, folder / file, {"format": "pt"})
    place |= dict.fromkeys(names, file)
  if len(shards) > 1:
    total = sum(map(_bytes, theirs.values()))
    index = {"metadata": {"total_size": total}, "weight_map": place}
    (folder / _source.INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _shards(
  theirs: dict[str, list[_table.Piece]], most: int
) -> Iterator[list[str]]:
  """Names, in their order, of tensors that fit into one file together."""
  names: list[str] = []
  size = 0
  for name, pieces in theirs.items():
    if names and size + _bytes(pieces) > most:
      yield names
      names, size = [], 0
    names.append(name)
    size += _bytes(pieces)
  yield names


def _bytes(pieces: list[_table.Piece]) -> int:
  return 4 * math.prod(pieces[0].whole)


def _tensor(
  arrays: dict[str, np.ndarray], pieces: list[_table.Piece]
) -> np.ndarray:
  """A tensor of theirs from all of its parts."""
  parts = [
    _axes.to_theirs(
      piece.axes,
      arrays[piece.path][... if piece.member is None else piece.member],
    )
    for piece in sorted(pieces, key=lambda piece: piece.part or (0, 1))
  ]
  whole = np.concatenate(parts) if parts[1:] else parts[0]
  return np.asarray(whole, order="C")
