"""One registry per family: where a name in a config is looked up and listed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from jbin import errors

F = TypeVar("F", bound=Callable[..., Any])


class Registry:
  """The members of one family by name, in the order they were registered."""

  def __init__(self, family: str):
    self.family = family
    self._members: dict[str, Callable[..., Any]] = {}

  def register(self, member: F) -> F:
    """Adds a function or class under its own name (use as a decorator).

    Raises:
      ValueError: if the name is taken.
    """
    name = member.__name__
    if name in self._members:
      raise ValueError(f"{self.family} {name!r} is registered twice")
    self._members[name] = member
    return member

  def get(self, name: str) -> Callable[..., Any]:
    """The member of that name.

    Raises:
      errors.UnknownName: if there is none; the message has the near misses.
    """
    if name not in self._members:
      raise errors.UnknownName(self.family, name, self._members)
    return self._members[name]

  def describe(self) -> Iterator[tuple[str, str]]:
    """Each member's name and the first line of its doc string."""
    for name, member in self._members.items():
      yield name, (member.__doc__ or "").strip().split("\n")[0]

  def __iter__(self) -> Iterator[str]:
    return iter(self._members)

  def __contains__(self, name: object) -> bool:
    return name in self._members

  def __len__(self) -> int:
    return len(self._members)
