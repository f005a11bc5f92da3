"""What must be the same for all processes of a job, or none of them begins.

Each check is made by all, and all get the same answer: with one process alone
to leave, the others would wait for it. With one process they are no-ops.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

import jbin
from jbin import errors
from jbin.train import config as config_lib, processes

MAY_DIFFER = frozenset({"workers", "compile_cache"})
"""Keys of a config that each host may have in its own way."""
PATIENCE = 40
"""Seconds until all must see what one host writes; NFS looks again after 30."""
_SHOWN = 3  # keys that differ
_LONG = 80  # characters of a value


def check_same(config: Mapping[str, Any]) -> None:
  """Whether all processes have the same config, jbin and JAX.

  Args:
    config: of this process, what JSON knows; see `config.to_mapping`.

  Raises:
    errors.UserError: on all processes, if one differs from process 0; it names
      that process, the keys and the values of both.
  """
  if jax.process_count() == 1:
    return
  mine = {
    f"config key '{key}'": value
    for key, value in config_lib.flat(config).items()
    if key not in MAY_DIFFER
  }
  mine |= {"jbin": jbin.__version__, "JAX": jax.__version__}
  text = json.dumps(mine, sort_keys=True)
  digest = hashlib.sha256(text.encode()).hexdigest()
  if len(set(processes.gather(digest))) == 1:
    return
  mine = json.loads(text)  # as the others see it
  theirs = processes.agree(mine)
  differ = [
    f"{key} is {there[:_LONG]} in process 0 and {here[:_LONG]} in process"
    f" {jax.process_index()}"
    for key in sorted({*mine, *theirs})
    if (there := _text(theirs, key)) != (here := _text(mine, key))
  ]
  more = f", and {len(differ) - _SHOWN} more" if len(differ) > _SHOWN else ""
  _all_or_none(
    ", ".join(differ[:_SHOWN]) + more,
    "start all with the same command, jbin and JAX",
  )


def check_shared(folder: Path) -> None:
  """Whether all processes see the same folder, which is there.

  Raises:
    errors.UserError: on all processes, if one does not see what process 0
      writes into it; it names that process.
    OSError: if process 0 cannot write into it.
  """
  if jax.process_count() == 1:
    return
  where, name = processes.agree([str(folder), f".jbin-{secrets.token_hex(8)}"])
  path = folder / name
  if processes.first():
    path.touch()
  processes.barrier("jbin: the file is there")
  until = time.monotonic() + PATIENCE
  while not (seen := _sees(path)) and time.monotonic() < until:
    time.sleep(0.1)
  me = jax.process_index()
  said = f"process {me} does not see in {folder} what process 0 puts in {where}"
  try:
    _all_or_none(
      "" if seen else said,
      "all need the same workdir, on a file system that they share",
    )
  finally:
    if processes.first():
      path.unlink(missing_ok=True)


def _sees(path: Path) -> bool:
  # Asked for by name, a network file system may remember that it was absent.
  return path.name in [each.name for each in path.parent.glob(".jbin-*")]


def _all_or_none(said: str, cure: str) -> None:
  """Raises on all processes if one of them has something to say."""
  found = [text for text in processes.gather(said) if text]
  if found:
    more = len(found) - 1
    others = f" (and so for {more} more)" if more else ""
    raise errors.UserError(f"{found[0]}{others}; {cure}")


def _text(values: Mapping[str, Any], key: str) -> str:
  return repr(values[key]) if key in values else "absent"
