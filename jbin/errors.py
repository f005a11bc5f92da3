"""Errors that a user can cure: what is wrong, where, and what to do."""

from __future__ import annotations

import contextlib
import difflib
import os
from collections.abc import Generator, Iterable

_LISTED = 60  # names of a family, at most


class UserError(ValueError):
  """Bad input. The command line prints it in one line and exits with 2."""


class RunFailed(RuntimeError):  # noqa: N818 - reads as what it is
  """A good run that the world stopped: a full disk, a worker that was killed.

  The command line prints it in one line and exits with 1.
  """


class JbinWarning(UserWarning):
  """What runs, but will hardly do what was meant; the message has the cure."""


class UnknownName(UserError):  # noqa: N818 - reads as what it is
  """A name that is in no registry; the message gives the near misses."""

  def __init__(self, family: str, name: str, known: Iterable[str]):
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = (
      f"did you mean {' or '.join(near)}?"
      if near
      else f"known: {', '.join(known[:_LISTED])}"
    )
    if not near and len(known) > _LISTED:
      hint += f" and {len(known) - _LISTED} more"
    super().__init__(f"unknown {family} {name!r}; {hint}")


def is_memory(error: BaseException) -> bool:
  """Whether the host or a device is out of memory."""
  device = type(error).__name__ == "JaxRuntimeError"  # JAX is not loaded here
  said = str(error)
  device = device and ("RESOURCE_EXHAUSTED" in said or "Out of memory" in said)
  return device or isinstance(error, MemoryError)


@contextlib.contextmanager
def about(path: str | os.PathLike[str]) -> Generator[None]:
  """Errors of the system inside name `path`: those of writing name no file."""
  try:
    yield
  except OSError as error:
    if error.filename is None:
      error.filename = os.fspath(path)
    raise
