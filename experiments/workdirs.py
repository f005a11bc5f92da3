"""A sweep's root: which runs are finished, and of what; its lock, its cache."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jbin import errors
from jbin.cli import _flags
from jbin.train import config as config_lib

LOCK = "sweep.lock"  # in the root


def finished(workdir: str | Path) -> bool:
  """Whether the run is over: its page is the last file that it writes."""
  return Path(workdir, "report", "index.html").is_file()


def check(runs: Mapping[str, Sequence[str]]) -> None:
  """Refuses workdirs that hold another run than they would be taken for.

  Args:
    runs: workdir -> the arguments of `jbin train` for it.

  Raises:
    SystemExit: naming the workdirs, and the config keys that differ.
  """
  found: list[str] = []
  for workdir, arguments in runs.items():
    try:
      differ = _differences(Path(workdir), arguments)
    except errors.UserError as error:
      raise SystemExit(f"{workdir}: {error}") from error
    if differ:
      found.append(f"{workdir} holds another run: {'; '.join(differ)}")
  if found:
    cure = "choose another --root, or remove what is there"
    how = (
      "; or give the flags, and the arguments after --, that it was run with"
    )
    raise SystemExit("\n".join([*found, cure + how]))


def _differences(workdir: Path, arguments: Sequence[str]) -> list[str]:
  """What may not differ, as "key: there -> asked for"; none: it may be taken.

  Steps may differ when a run goes on, for longer runs on purpose; not here.
  """
  saved = _saved(workdir)
  if saved is None:  # an unfinished run begins anew, or knows its own
    return ["no config.json can be read"] if finished(workdir) else []
  texts, switches = {"workdir": ""}, {"distributed": ""}
  _, _, asked = _flags.parse(
    "train", arguments, texts, switches=switches, config=True
  )
  assert asked is not None
  try:
    was = config_lib.from_mapping(saved)
  except errors.UserError as error:  # of another version
    return [f"its config.json cannot be read: {error}"]
  differ = config_lib.differences(asked, config_lib.to_mapping(was))
  if was.steps != asked.steps:
    differ.append(f"steps: {was.steps} -> {asked.steps}")
  return differ


def _saved(workdir: Path) -> dict[str, Any] | None:
  try:
    return json.loads((workdir / "config.json").read_text())
  except (OSError, ValueError):
    return None


@contextlib.contextmanager
def locked(root: str) -> Iterator[int]:
  """Keeps other sweeps out of the root; gives the lock's file descriptor.

  Runs inherit it: those that a killed sweep leaves behind keep the lock.

  Raises:
    SystemExit: if there is another sweep.
  """
  Path(root).mkdir(parents=True, exist_ok=True)
  with Path(root, LOCK).open("a") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise SystemExit(
        f"{root} is in use by another sweep, or by runs that one left behind;"
        " let them end, or choose another --root"
      ) from None
    yield file.fileno()


def environment(root: str) -> dict[str, str]:
  """Of runs: what is compiled or learned once is kept for the others."""
  cache = str(Path(root, "cache").resolve())
  names = ("hugetlb=1", "mmap_threshold=4294967296", "top_pad=268435456")
  pages = ":".join(f"glibc.malloc.{name}" for name in names)
  return {
    "JAX_COMPILATION_CACHE_DIR": cache,
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
    "JBIN_CACHE": cache,
    # Memory is kept: a step on a CPU pays for every page of it, else.
    "GLIBC_TUNABLES": f"{pages}:glibc.malloc.trim_threshold=8589934592",
    **os.environ,
  }
