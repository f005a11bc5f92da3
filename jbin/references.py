"""What a method cites: keys into `references.bib`, carried by the method."""

from __future__ import annotations

import functools
import importlib.resources
import re
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from jbin import errors

M = TypeVar("M", bound=Callable[..., Any])


def cites(*keys: str) -> Callable[[M], M]:
  """Decorator: the method was published in the entries with these keys."""

  def mark(member: M) -> M:
    member.references = keys  # pyright: ignore[reportFunctionMemberAccess]
    return member

  return mark


def of(member: Any) -> tuple[str, ...]:
  """The keys that a method (or an instance of it) cites; none is ()."""
  keys = getattr(member, "references", ())
  # Of a class that cites what an instance of it holds, nothing is known.
  return () if isinstance(keys, property) else tuple(keys)


@functools.cache
def entries() -> dict[str, str]:
  """Every BibTeX entry of `references.bib` by its key."""
  text = importlib.resources.files("jbin").joinpath("references.bib")
  found = re.split(r"(?m)^(?=@)", text.read_text(encoding="utf-8"))
  return {
    key[1]: entry.strip()
    for entry in found
    if (key := re.match(r"@\w+\{([^,\s]+),", entry))
  }


def bibtex(keys: Iterable[str]) -> str:
  """The entries with these keys, each once, in the order of the file.

  Raises:
    errors.UnknownName: for a key that the file does not have.
  """
  known, asked = entries(), set(keys)
  for key in asked:
    if key not in known:
      raise errors.UnknownName("reference", key, known)
  return "\n\n".join(entry for key, entry in known.items() if key in asked)
