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
  files = _files(path) if path.is_dir() else (path,)
  if files[0].suffix != ".safetensors":
    raise errors.UserError(f"weights {source}: it is no .safetensors{_SAFE}")
  config = files[0].parent / "config.json"
  return Source(str(source), files, _json(config) if config.is_file() else {})


def _json(path: Path) -> dict[str, Any]:
  try:
    return json.loads(path.read_text())
  except ValueError as error:
    raise errors.UserError(
      f"weights {path}: it is no JSON ({error}); copy it again"
    ) from error


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


def _files(folder: Path) -> tuple[Path, ...]:
  """A folder's one file, or the shards that its index names."""
  if (folder / SINGLE).is_file():
    return (folder / SINGLE,)
  if (folder / INDEX).is_file():
    shards = _json(folder / INDEX)["weight_map"].values()
    files = tuple(folder / name for name in sorted({*shards}))
    absent = [file.name for file in files if not file.is_file()]
    if absent:
      raise errors.UserError(
        f"weights {folder}: {', '.join(absent)}, named by {INDEX}, not there;"
        " copy all shards"
      )
    return files
  found = sorted(folder.glob("*.safetensors"))
  if len(found) != 1:
    names = ", ".join(sorted(path.name for path in folder.iterdir()))
    raise errors.UserError(
      f"weights {folder}: of {SINGLE}, {INDEX} or one other .safetensors file"
      f" none is there, but {names or 'nothing'}{'' if found else _SAFE}"
    )
  return (found[0],)


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
    errors.UserError: if a file is damaged.
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
    for name in file.keys():  # noqa: SIM118 - it is no mapping
      entry = file.get_slice(name)
      shape = tuple(entry.get_shape())
      found.append(Tensor(file, name, entry.get_dtype(), shape))
  return found
