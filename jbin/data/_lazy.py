"""A value that is made when it is first asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Lazy(Generic[T]):
  """Holds a value from when it is first asked for; a pickle carries it.

  Args:
    make: gives the value; is called once, by one thread.
  """

  def __init__(self, make: Callable[[], T]):
    self._make: Callable[[], T] | None = make
    self._values: list[T] = []
    self._lock = threading.Lock()

  @property
  def made(self) -> bool:
    """Whether the value is there."""
    return bool(self._values)

  def get(self) -> T:
    """The value."""
    with self._lock:
      if self._make is not None:
        self._values = [self._make()]
        self._make = None  # and what it was made of
      return self._values[0]

  def __getstate__(self) -> list[T]:
    """What a worker needs: the value alone."""
    return [self.get()]

  def __setstate__(self, state: list[T]) -> None:
    """Restores what `__getstate__` gave."""
    self._make, self._values = None, state
    self._lock = threading.Lock()
