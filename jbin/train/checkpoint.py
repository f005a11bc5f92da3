"""Checkpoints: Orbax behind one small class.

A checkpoint `DIR/<step>/` holds groups of named arrays ("model", "optimizer",
"loop"; random keys as their words), and JSON: format, step, config, position in
the data. When it is complete, a seal with the size and checksum of each of its
files is put beside them, so that damage is seen before it is trusted. Nothing
is ever unpickled.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging

from jbin import errors
from jbin.train import sharding

FORMAT = 1
_SEAL = "jbin_seal.json"
_INFO = "info"


class Damaged(errors.UserError):
  """A checkpoint that cannot be read as it was written."""


class Checkpoints:
  """The checkpoints of one run; the newest ones are kept.

  Saving is asynchronous: the arrays are copied, and the run goes on. `close`
  waits for the last one and verifies it; call it in a `finally`.
  """

  def __init__(
    self,
    folder: Path,
    keep: int | None = None,
    say: Callable[[str], None] = lambda line: None,
  ):
    """Opens a folder of checkpoints.

    Args:
      folder: where they are.
      keep: how many to keep when saving; None: only to read, the folder is not
        written to.
      say: is told of damaged checkpoints, one line each.
    """
    self._folder = folder.absolute()
    self._writes = keep is not None
    self._say = say
    self._unsealed: int | None = None
    self._manager: ocp.CheckpointManager | None = None
    if self._writes:
      self._folder.mkdir(parents=True, exist_ok=True)
      options = ocp.CheckpointManagerOptions(max_to_keep=keep)
    else:
      options = ocp.CheckpointManagerOptions(
        read_only=True, create=False, save_interval_steps=0
      )
    if self._folder.is_dir():
      said = logging.get_verbosity()
      if not self._writes:  # Orbax warns that it will not write, as it is told
        logging.set_verbosity(logging.ERROR)
      try:
        self._manager = ocp.CheckpointManager(self._folder, options=options)
      finally:
        logging.set_verbosity(said)

  @property
  def latest(self) -> int | None:
    """The newest step saved or being saved; None without any."""
    return self._manager.latest_step() if self._manager else None

  # --- Saving ---------------------------------------------------------------

  def save(
    self, step: int, groups: Mapping[str, Any], info: Mapping[str, Any]
  ) -> None:
    """Starts to save; returns when the arrays may be changed.

    Args:
      step: steps done.
      groups: pytrees of arrays by name.
      info: what JSON knows.
    """
    assert self._manager is not None
    self.wait()
    words = {name: _to_words(_named(tree)) for name, tree in groups.items()}
    notes = {"format": FORMAT, "step": step, "arrays": _shapes(words), **info}
    items: dict[str, Any] = {
      name: ocp.args.StandardSave(arrays)
      for name, arrays in words.items()
      if arrays  # Orbax refuses a group without any
    }
    items[_INFO] = ocp.args.JsonSave(notes)
    self._manager.save(step, args=ocp.args.Composite(**items))
    self._unsealed = step

  def wait(self) -> None:
    """Waits until the save under way, if any, is complete, and seals it."""
    if self._manager is None:
      return
    self._manager.wait_until_finished()
    if self._unsealed is not None and jax.process_index() == 0:
      _seal(self._folder / str(self._unsealed))
    self._unsealed = None

  def close(self) -> None:
    """Waits for the last save and verifies that it can be read.

    Raises:
      Damaged: if it cannot.
    """
    if self._manager is None:
      return
    last = self._unsealed
    try:
      self.wait()
      if last is not None:
        _check_seal(self._folder / str(last))
        self._info(last)
    finally:
      self._manager.close()
      self._manager = None

  # --- Restoring ------------------------------------------------------------

  def restore(
    self, targets: Callable[[Mapping[str, Any]], Mapping[str, Any]]
  ) -> tuple[Mapping[str, Any], Mapping[str, Any]] | None:
    """The newest good checkpoint; damaged ones are named and passed over.

    Args:
      targets: is given the checkpoint's info and returns, by group, trees of
        `jax.ShapeDtypeStruct` with shardings. Groups left out are not read.

    Returns:
      (info, groups), or None if there is no checkpoint.

    Raises:
      errors.UserError: if a good one is of another model or format, or all
        are damaged.
    """
    steps = sorted(self._manager.all_steps() if self._manager else ())
    damaged = []
    for step in reversed(steps):
      try:
        _check_seal(self._folder / str(step))
        info = self._info(step)
        groups = self._groups(step, info, targets(info))
      except Damaged as error:
        self._say(f"checkpoint {step} is damaged and passed over: {error}")
        damaged.append(step)
        continue
      self._set_aside(damaged)
      return info, groups
    if damaged:
      raise errors.UserError(
        f"every checkpoint in {self._folder} is damaged ({damaged}); start anew"
        " in another workdir, or remove the folder to start anew in this one"
      )
    return None

  def _info(self, step: int) -> Mapping[str, Any]:
    assert self._manager is not None
    try:
      args = ocp.args.Composite(**{_INFO: ocp.args.JsonRestore()})
      info = self._manager.restore(step, args=args)[_INFO]
    except Exception as error:
      raise Damaged(_line(error)) from error
    if info["format"] != FORMAT:
      raise errors.UserError(
        f"checkpoint {step} in {self._folder} has format {info['format']}, this"
        f" jbin reads {FORMAT}; go on with the jbin that wrote it, or start"
        " anew in another workdir"
      )
    return info

  def _groups(
    self, step: int, info: Mapping[str, Any], targets: Mapping[str, Any]
  ) -> Mapping[str, Any]:
    assert self._manager is not None
    wanted = {
      name: {key: _words_of(leaf) for key, leaf in _named(tree).items()}
      for name, tree in targets.items()
    }
    self._check_arrays(step, info["arrays"], _shapes(wanted))
    args = {
      name: ocp.args.StandardRestore(arrays)
      for name, arrays in wanted.items()
      if arrays
    }
    try:
      read = self._manager.restore(step, args=ocp.args.Composite(**args))
    except Exception as error:
      raise Damaged(_line(error)) from error
    return {
      name: jax.tree.unflatten(
        jax.tree.structure(tree),
        [_from_words(read[name][key], x) for key, x in _named(tree).items()],
      )
      for name, tree in targets.items()
    }

  def _check_arrays(
    self, step: int, saved: Mapping[str, Any], wanted: Mapping[str, Any]
  ) -> None:
    """Raises if the checkpoint holds other arrays than are wanted."""
    for name, mine in wanted.items():
      there = saved.get(name, {})
      differ = [k for k in {*there, *mine} if there.get(k) != mine.get(k)]
      if differ:
        key = min(differ)
        raise errors.UserError(
          f"checkpoint {step} in {self._folder} is of another {name}: '{key}'"
          f" is {there.get(key, 'absent')} there and {mine.get(key, 'absent')}"
          " in this config; use the config it was made with, or another workdir"
        )

  def _set_aside(self, steps: list[int]) -> None:
    """Moves damaged checkpoints away, so that their steps can be saved."""
    if not (steps and self._writes):
      return
    assert self._manager is not None
    if jax.process_index() == 0:
      attic = self._folder.with_name(self._folder.name + ".damaged")
      attic.mkdir(exist_ok=True)
      for step in steps:
        shutil.rmtree(attic / str(step), ignore_errors=True)
        shutil.move(self._folder / str(step), attic / str(step))
    self._manager.reload()


def _line(error: Exception) -> str:
  """The first line of an error, short."""
  text = str(error).strip().split("\n")[0]
  return f"{type(error).__name__}: {text[:160]}"


# --- Names, and random keys as words -----------------------------------------


def _named(tree: Any) -> dict[str, Any]:
  names, leaves = sharding.path_names(tree), jax.tree.leaves(tree)
  if len(set(names)) != len(names):
    twice = next(name for name in names if names.count(name) > 1)
    raise ValueError(f"two arrays of a checkpoint are called {twice!r}")
  return dict(zip(names, leaves, strict=True))


def _shapes(groups: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
  """As "float32[3, 4]" for each array, by group and name."""
  return {
    name: {key: f"{x.dtype}{list(x.shape)}" for key, x in arrays.items()}
    for name, arrays in groups.items()
  }


def _is_key(leaf: Any) -> bool:
  return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _to_words(leaves: Mapping[str, Any]) -> dict[str, Any]:
  return {
    key: jax.random.key_data(leaf) if _is_key(leaf) else leaf
    for key, leaf in leaves.items()
  }


def _words_of(leaf: Any) -> Any:
  """The abstract array that is saved for an abstract array."""
  if not _is_key(leaf):
    return leaf
  words = jax.eval_shape(jax.random.key_data, leaf)
  return jax.ShapeDtypeStruct(words.shape, words.dtype, sharding=leaf.sharding)


def _from_words(words: Any, leaf: Any) -> Any:
  if not _is_key(leaf):
    return words
  kinds: list[Any] = []  # only an abstract call is told the kind of a key
  jax.eval_shape(lambda key: kinds.append(jax.random.key_impl(key)), leaf)
  keys = jax.random.wrap_key_data(words, impl=kinds[0])
  return jax.device_put(keys, leaf.sharding)


# --- Seals -------------------------------------------------------------------


def _files(folder: Path) -> dict[str, Path]:
  return {
    path.relative_to(folder).as_posix(): path
    for path in sorted(folder.rglob("*"))
    if path.is_file() and path.name != _SEAL
  }


def _checksum(path: Path) -> list[int]:
  """[size in bytes, CRC-32]."""
  size = crc = 0
  with path.open("rb") as file:
    while chunk := file.read(2**22):
      size += len(chunk)
      crc = zlib.crc32(chunk, crc)
  return [size, crc]


def _seal(folder: Path) -> None:
  if not folder.is_dir():
    return
  sums = {name: _checksum(path) for name, path in _files(folder).items()}
  draft = folder / (_SEAL + ".draft")
  draft.write_text(json.dumps(sums))
  os.replace(draft, folder / _SEAL)


def _check_seal(folder: Path) -> None:
  """Raises `Damaged` if a sealed file is gone or has other contents.

  A checkpoint without a seal was complete when its process died before
  sealing it; Orbax has committed it, so it is read on trust.
  """
  seal = folder / _SEAL
  if not seal.is_file():
    return
  try:
    sums = json.loads(seal.read_text())
    for name, want in sums.items():
      path = folder / name
      if not path.is_file():
        raise Damaged(f"{path} is missing")
      if path.stat().st_size != want[0] or _checksum(path) != want:
        raise Damaged(f"{path} is not as it was written")
  except (ValueError, AttributeError, OSError) as error:
    if isinstance(error, Damaged):
      raise
    raise Damaged(f"{seal}: {_line(error)}") from error
