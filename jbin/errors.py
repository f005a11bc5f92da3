"""Errors that a user can cure: what is wrong, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
  """Bad input. The command line prints it in one line and exits with 2."""


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
      else f"known: {', '.join(known)}"
    )
    super().__init__(f"unknown {family} {name!r}; {hint}")
