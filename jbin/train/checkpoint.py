"""Checkpoints: Orbax behind one small class.

A checkpoint `DIR/<step>/` holds groups of named arrays ("model", "optimizer",
"loop", ...; random keys as their words), and JSON: format, step, config,
position in the data. When it is complete, a seal with the size and checksum of
each of its files is put beside them, so that damage is seen before it is
trusted. What was read is compared with what was saved, array by array, so that
a checkpoint whose process died before sealing it is no exception. Nothing is
ever unpickled.

With several processes all share the folder: all write their arrays and read
them, the first one looks at seals, and all take its decisions.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

import jbin
from jbin import errors
from jbin.train import processes, quiet, seals, words

FORMAT = 2
"""Of what is written. 1 had no digests, nor a checksum of info."""
READ = (1, 2)
"""Formats that can be read; `targets` is told which it is."""
PATIENCE = 600
"""Seconds that a save may take, and that its processes wait for one another."""
_INFO = "info"
_SHOWN = 160  # characters of an error
_SYSTEM = re.compile(r"([^:]+) \[os_error_code")
# What the system or the device may refuse; all else is a bug and stays one.
_WORLD = (OSError, ValueError, RuntimeError)

Damaged = seals.Damaged


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
    quiet.hush()
    self._folder = folder.absolute()
    self._writes = keep is not None
    self._say = say
    self._unsealed: int | None = None
    self._failed = False
    self._manager: ocp.CheckpointManager | None = None
    if self._writes:
      self._folder.mkdir(parents=True, exist_ok=True)
      options = ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        # Of a save that a kill cut short: it takes room.
        cleanup_tmp_directories=True,
        async_options=ocp.AsyncOptions(timeout_secs=PATIENCE),
      )
    else:
      options = ocp.CheckpointManagerOptions(
        read_only=True, create=False, save_interval_steps=0
      )
    if self._folder.is_dir():
      self._manager = ocp.CheckpointManager(self._folder, options=options)

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

    Raises:
      errors.RunFailed: if this or the last save failed, as for a full disk.
    """
    assert self._manager is not None
    self.wait()
    arrays = {
      name: words.to_words(words.named(tree)) for name, tree in groups.items()
    }
    notes = {
      "format": FORMAT,
      "jbin": jbin.__version__,
      "step": step,
      "arrays": words.shapes(arrays),
      "digests": {name: seals.digests(x) for name, x in arrays.items()},
      **info,
    }
    items: dict[str, Any] = {
      name: ocp.args.StandardSave(group)
      for name, group in arrays.items()
      if group  # Orbax refuses a group without any
    }
    items[_INFO] = ocp.args.JsonSave(seals.signed(notes))
    try:
      self._manager.save(step, args=ocp.args.Composite(**items))
    except _WORLD as error:
      raise self._not_saved(step, error) from error
    self._unsealed = step

  def wait(self) -> None:
    """Waits until the save under way, if any, is complete, and seals it.

    Raises:
      errors.RunFailed: if it failed.
    """
    step, self._unsealed = self._unsealed, None
    if self._manager is None or step is None:
      return
    try:
      self._manager.wait_until_finished()
      if processes.first():
        seals.seal(self._folder / str(step))
    except _WORLD as error:
      raise self._not_saved(step, error) from error

  def _not_saved(self, step: int, error: Exception) -> Exception:
    """What to raise when a save failed."""
    self._failed = True
    if errors.is_memory(error):
      return error
    good = [n for n in self._steps() if seals.is_sealed(self._folder / str(n))]
    kept = (
      f"the checkpoint of step {good[-1]} is good"
      if good
      else "no checkpoint was there before"
    )
    cure = "make room there"
    if isinstance(error, TimeoutError):
      cure = "see that the disk is fast enough and every process writes there"
    return errors.RunFailed(
      f"checkpoint {step} could not be saved in {self._folder}"
      f" ({_line(error)}); {kept}; {cure}, and the same command goes on from"
      f" {'it' if good else 'the start'}"
    )

  def close(self) -> None:
    """Waits for the last save and verifies that it can be read.

    With an error on its way the other processes may not come here, and nobody
    waits for them.

    Raises:
      errors.RunFailed: if it cannot, or the save failed.
    """
    if self._manager is None:
      return
    last, together = self._unsealed, sys.exc_info()[0] is None
    try:
      self.wait()
      if last is not None:
        self._verify(last, together)
    finally:
      manager, self._manager = self._manager, None
      try:
        manager.close()
      except Exception:
        if not self._failed:  # else it says once more that a save failed
          raise

  def _verify(self, step: int, together: bool) -> None:
    said = self._look(step) if processes.first() else None
    if together:
      said = processes.agree(said)
    if said:
      raise Damaged(
        f"checkpoint {step} is damaged right after it was saved: {said}; look"
        " at the disk; the same command goes on from the last good checkpoint"
      )

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
    damaged = []
    for step in reversed(processes.agree(self._steps())):
      try:
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

  def _steps(self) -> list[int]:
    return sorted(self._manager.all_steps()) if self._manager else []

  def _look(self, step: int) -> str | None:
    """What is wrong with the files and the info of a checkpoint."""
    folder = self._folder / str(step)
    try:
      seals.check(folder)
      seals.read(_notes(folder))
    except Damaged as error:
      return str(error)
    return None

  def _info(self, step: int) -> Mapping[str, Any]:
    """What the checkpoint says of itself, once the first process looked.

    Raises:
      Damaged: on all processes, if it is.
      errors.UserError: if it has a format that this version cannot read.
    """
    if said := processes.agree(self._look(step) if processes.first() else None):
      raise Damaged(said)
    path = _notes(self._folder / str(step))
    if not path.is_file():  # the first process has just read it
      raise errors.RunFailed(
        f"process {jax.process_index()} does not see {path}; all processes need"
        " the same workdir, on a file system that they share"
      )
    info = seals.read(path)
    if info["format"] not in READ:
      raise errors.UserError(
        f"checkpoint {step} in {self._folder} has format {info['format']}, this"
        f" jbin ({jbin.__version__}) reads {' and '.join(map(str, READ))}; go"
        f" on with the jbin that wrote it ({info.get('jbin', 'unknown')}), or"
        " start anew in another workdir"
      )
    return info

  def _groups(
    self, step: int, info: Mapping[str, Any], targets: Mapping[str, Any]
  ) -> Mapping[str, Any]:
    wanted = {
      name: {
        key: words.words_of(leaf) for key, leaf in words.named(tree).items()
      }
      for name, tree in targets.items()
    }
    self._check_arrays(step, info["arrays"], words.shapes(wanted))
    read = self._read(
      step, {k: arrays for k, arrays in wanted.items() if arrays}
    )
    for name, arrays in read.items() if "digests" in info else ():
      was, now = info["digests"][name], seals.digests(arrays)
      if differ := [key for key in now if now[key] != was[key]]:
        raise Damaged(f"the values of '{differ[0]}' are not those saved")
    return {
      name: jax.tree.unflatten(
        jax.tree.structure(tree),
        [
          words.from_words(read[name][key], x)
          for key, x in words.named(tree).items()
        ],
      )
      for name, tree in targets.items()
    }

  def _read(self, step: int, wanted: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arrays; damage that one process meets is damage for all."""
    assert self._manager is not None
    args = {name: ocp.args.StandardRestore(x) for name, x in wanted.items()}
    if not args:
      return {}
    said, read = "", {}
    try:
      read = self._manager.restore(step, args=ocp.args.Composite(**args))
    except Exception as error:
      if errors.is_memory(error) or isinstance(error, PermissionError):
        raise
      said = _line(error)
    if _any(bool(said)):
      raise Damaged(said or "another process cannot read it")
    return {name: read[name] for name in wanted}

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
    if processes.first():
      attic = self._folder.with_name(self._folder.name + ".damaged")
      attic.mkdir(exist_ok=True)
      for step in steps:
        shutil.rmtree(attic / str(step), ignore_errors=True)
        shutil.move(self._folder / str(step), attic / str(step))
    processes.barrier("jbin: damaged checkpoints are aside")
    self._manager.reload()


def _notes(folder: Path) -> Path:
  """Where Orbax puts the JSON of a checkpoint."""
  return folder / _INFO / "metadata"


def _any(flag: bool) -> bool:
  """Whether it is so on any process."""
  if jax.process_count() == 1:
    return flag
  return bool(np.any(multihost_utils.process_allgather(np.bool_(flag))))


# --- Errors -------------------------------------------------------------------


def _line(error: Exception) -> str:
  """What went wrong, short."""
  text = str(error).strip().split("\n")[0]
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  if said := _SYSTEM.search(text):  # at the end of TensorStore's chain
    return said[1].strip()
  cut = text if len(text) <= _SHOWN else f"...{text[-_SHOWN:]}"
  return f"{type(error).__name__}: {cut}"
