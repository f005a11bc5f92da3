"""From a model's parameters to a checkpoint that others read."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from flax import nnx

from jbin import errors, nn
from jbin.pretrained import _axes, _load, _settings, _source, _table


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
    errors.UserError: if the folder has weights, or the model has quantizers,
      parameters or settings that such checkpoints do not.
  """
  folder = Path(path).expanduser()
  shapes = _table.shapes(model)
  _refuse_low_bit(model)
  name, family = _table.family_of(model, shapes)
  pieces = {p: family.pieces(p, shape) for p, shape in shapes.items()}
  unknown = [path for path, made_of in pieces.items() if not made_of]
  if unknown:
    known = (why for p, why in family.absent if re.fullmatch(p, unknown[0]))
    raise errors.UserError(
      f"checkpoints of the family {name} have nothing for {unknown[0]}"
      f" ({len(unknown)} of {len(pieces)} parameters)"
      f"{next((f': {why}' for why in known), '')}; save a model without them"
    )
  config = family.config(model, shapes)
  theirs: dict[str, list[_table.Piece]] = {}
  for made_of in pieces.values():
    for piece in made_of:
      theirs.setdefault(piece.name, []).append(piece)
  written = _source.Source(str(folder), (), config)
  own = family.unseen(model, shapes)
  for key, (ours, read) in _load.differing(
    family, own, written, theirs
  ).items():
    raise errors.UserError(
      f"checkpoints of the family {name} cannot say {key} = {ours}, and are"
      f" read with {read}; save a model with that"
    )
  if folder.is_dir() and any(folder.glob("*.safetensors*")):
    raise errors.UserError(
      f"{folder} has weights already; remove them, or name another folder"
    )
  folder.mkdir(parents=True, exist_ok=True)
  _write(model, theirs, folder, shard_bytes)
  (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _refuse_low_bit(model: nnx.Module) -> None:
  """Refuses a model whose weights alone would be another one."""
  for path, part in _settings.quantizers(model):
    raise errors.UserError(
      f"'{path}' is a quantizer ({part.spec!r}), for which checkpoints of float"
      " models have no place; save jbin.dequantize(model)"
    )
  for path, part in _settings.attentions(model):
    how = getattr(part.normalize, "__name__", part.normalize)
    cure = "jbin.dequantize(model)"
    if part.normalize is not nn.raw_scores:
      cure = "a model with softmax there"
    raise errors.UserError(
      f"'{path}' makes weights of scores by {how}, and the models of such"
      f" checkpoints by softmax; save {cure}"
    )


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
