"""One run at a time in a workdir."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
from collections.abc import Generator
from pathlib import Path

from jbin import errors

FILE = "lock"


@contextlib.contextmanager
def held(workdir: Path) -> Generator[None]:
  """Context: no other process may train in this folder.

  The lock ends with the process, however that ends; the file stays, and says
  who had it last.

  Raises:
    errors.UserError: if another process has it.
  """
  path = workdir / FILE
  with errors.about(path), path.open("a+", encoding="utf-8") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      file.seek(0)
      raise errors.UserError(
        f"another process trains in {workdir} ({file.read().strip()}); wait for"
        " its end, stop it, or choose another --workdir"
      ) from error
    file.truncate(0)
    file.write(f"process {os.getpid()} on {platform.node()}\n")
    file.flush()
    yield
