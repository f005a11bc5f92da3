"""Where weights lie: a file, a folder, or a repository of the hub."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jbin import errors

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_WANTED = ["config.json", SINGLE, INDEX, "model-*-of-*.safetensors"]
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_SAFE = (
  "; other files may run code when they are read. transformers writes"
  " safetensors: AutoModel.from_pretrained(FOLDER).save_pretrained(OTHER),"
  " where their author is trusted"
)


class Source(NamedTuple):
  """Files of weights, and what stands beside them."""

  said: str  # by the user
  files: tuple[Path, ...]
  config: Mapping[str, Any]  # config.json; empty if there is none
  places: Mapping[str, str] = {}  # the file of each tensor, if there are shards


def find(source: str | Path) -> Source:
  """The files of a path or a hub id.

  Raises:
    errors.UserError: if there are none, or none that is safe to read.
  """
  path = Path(source).expanduser()
  if not path.exists():
    if not _HUB_ID.fullmatch(str(source)):
      raise errors.UserError(
        f"weights {source}: there is no such file or folder; give a"
        ' .safetensors file, its folder, or a hub id ("org/name")'
      )
    path = _fetched(str(source))
  files, index = _files(path) if path.is_dir() else ((path,), {})
  if files[0].suffix != ".safetensors":
    raise errors.UserError(f"weights {source}: it is no .safetensors{_SAFE}")
  config = files[0].parent / "config.json"
  found = _json(config) if config.is_file() else {}
  return Source(str(source), files, found, index)


def _json(path: Path) -> dict[str, Any]:
  try:
    found = json.loads(path.read_text())
  except ValueError as error:
    raise errors.UserError(
      f"weights {path}: it is no JSON ({error}); copy it again"
    ) from error
  if not isinstance(found, dict):
    raise errors.UserError(
      f"weights {path}: it holds a {type(found).__name__}, not names and their"
      " values ({...}); copy it again"
    )
  return found


def _index(path: Path) -> dict[str, str]:
  """The file of each tensor, from an index of shards."""
  found = _json(path).get("weight_map")
  if not isinstance(found, dict) or not found:
    raise errors.UserError(
      f"weights {path}: it has no weight_map of tensors and their files; copy"
      " it again"
    )
  for tensor, file in found.items():
    plain = isinstance(file, str) and file == Path(file).name
    if not plain or not file.endswith(".safetensors"):
      raise errors.UserError(
        f"weights {path}: its weight_map has {tensor} in {file!r}, which is not"
        " the name of a .safetensors file beside it; take one from a source"
        " that you trust"
      )
  return found


def _fetched(hub_id: str) -> Path:
  """The folder of a hub repository's weights, fetched if they are not here."""
  import huggingface_hub

  name, _, revision = hub_id.partition("@")
  try:
    folder = huggingface_hub.snapshot_download(
      name, revision=revision or None, allow_patterns=_WANTED
    )
  except (OSError, ValueError) as error:
    why = f"{type(error).__name__}: {error}".split("\n")[0]
    raise errors.UserError(
      f"weights {hub_id}: there is no such folder, and the hub did not give it"
      f" ({why}); without a network, give a folder with config.json and"
      f" {SINGLE}"
    ) from error
  return Path(folder)


def _files(folder: Path) -> tuple[tuple[Path, ...], dict[str, str]]:
  """A folder's one file, or the shards that its index names, and the index."""
  if (folder / SINGLE).is_file():
    return (folder / SINGLE,), {}
  if (folder / INDEX).is_file():
    index = _index(folder / INDEX)
    files = tuple(folder / name for name in sorted({*index.values()}))
    absent = [file.name for file in files if not file.is_file()]
    if absent:
      raise errors.UserError(
        f"weights {folder}: {', '.join(absent)}, named by {INDEX}, not there;"
        " copy all shards"
      )
    return files, index
  found = sorted(folder.glob("*.safetensors"))
  if len(found) != 1:
    names = ", ".join(sorted(path.name for path in folder.iterdir()))
    raise errors.UserError(
      f"weights {folder}: of {SINGLE}, {INDEX} or one other .safetensors file"
      f" none is there, but {names or 'nothing'}{'' if found else _SAFE}"
    )
  return (found[0],), {}


class Tensor(NamedTuple):
  """A tensor that is not read yet."""

  file: Any
  name: str  # in the file
  dtype: str  # as the format has it: "F32", ...
  shape: tuple[int, ...]

  def read(self, part: tuple[int, int] | None = None) -> np.ndarray:
    """It in float32, or the i-th of k equal parts along its first axis."""
    i, k = part or (0, 1)
    if not self.shape:
      return self.file.get_tensor(self.name).astype(np.float32)
    size = self.shape[0] // k
    rows = self.file.get_slice(self.name)[i * size : (i + 1) * size]
    return rows.astype(np.float32, copy=False)


def tensors(source: Source, stack: contextlib.ExitStack) -> list[Tensor]:
  """All of a source; their files stay open as long as `stack` does.

  Raises:
    errors.UserError: if a file is damaged, or the index says something else.
  """
  import safetensors

  found: list[Tensor] = []
  for path in source.files:
    try:
      file: Any = stack.enter_context(safetensors.safe_open(path, "numpy"))
    except (OSError, safetensors.SafetensorError) as error:
      raise errors.UserError(
        f"weights {path}: it cannot be read ({error}); copy it again"
      ) from error
    names = [*file.keys()]
    _agree(source.places, path, names)
    for name in names:
      entry = file.get_slice(name)
      shape = tuple(entry.get_shape())
      found.append(Tensor(file, name, entry.get_dtype(), shape))
  return found


def _agree(index: Mapping[str, str], path: Path, names: list[str]) -> None:
  """Refuses a shard that has not just what its index says."""
  said = {name for name, file in index.items() if file == path.name}
  differing = sorted(said ^ {*names}) if index else ()
  if differing:
    has = "has" if differing[0] in names else "lacks"
    raise errors.UserError(
      f"weights {path}: it {has} {differing[0]}, and {INDEX} says otherwise"
      f" ({len(differing)} such tensors); copy all shards and their index again"
    )
