"""One run at a time in a workdir."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import platform
from collections.abc import Callable, Generator
from pathlib import Path
from typing import IO

from jbin import errors

FILE = "lock"
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}


@contextlib.contextmanager
def held(workdir: Path, say: Callable[[str], None]) -> Generator[None]:
  """Context: no other process may train in this folder.

  The lock ends with the process, however that ends; the file stays, and says
  who had it last. A file system that has no locks is told of, and no more.

  Args:
    workdir: the folder, which is there.
    say: prints a line.

  Raises:
    errors.UserError: if another process has it.
    OSError: if the file cannot be written.
  """
  path = workdir / FILE
  with contextlib.ExitStack() as closing:
    with errors.about(path):  # and not about what goes on while it is held
      file = closing.enter_context(path.open("a+", encoding="utf-8"))
      _lock(file, workdir, say)
      file.truncate(0)
      file.write(f"process {os.getpid()} on {platform.node()}\n")
      file.flush()
    yield


def _lock(file: IO[str], workdir: Path, say: Callable[[str], None]) -> None:
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as error:
    file.seek(0)
    raise errors.UserError(
      f"another process trains in {workdir} ({file.read().strip()}); wait for"
      " its end, stop it, or choose another --workdir"
    ) from error
  except OSError as error:
    if error.errno not in _NO_LOCKS:
      raise
    say(
      f"note: the file system of {workdir} has no locks ({error.strerror});"
      " that no other process trains there is not checked"
    )
