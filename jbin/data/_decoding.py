"""From one id after another to pieces of text that are whole."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from typing import Protocol

Shown = Callable[[Sequence[int]], list[int]]

# A character has 4 bytes at most, and an id stands for one at least: what ends
# within a character for longer than that is no text.
_PENDING = 8


class Stream(Protocol):
  """Decodes ids as they come; the pieces joined are the text of all.

  So it is with ids of a text. Those that an encoder never gives, such as bytes
  that are no UTF-8 among the tokens of a model that has learned little, may be
  shown otherwise than `Tokenizer.decode` shows them.
  """

  def step(self, id: int) -> str:
    """The text that is certain with this id, and was not before."""
    ...

  def rest(self) -> str:
    """The text of ids that stand within a character: U+FFFD."""
    ...


class OfBytes:
  """A `Stream` where an id is a byte.

  Args:
    shown: leaves out ids without text.
    first: the id of the byte 0.
  """

  def __init__(self, shown: Shown, first: int):
    self._shown = shown
    self._first = first
    self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

  def step(self, id: int) -> str:
    """See `Stream.step`."""
    found = self._shown([id])
    return self._decoder.decode(bytes(i - self._first for i in found))

  def rest(self) -> str:
    """See `Stream.rest`."""
    return self._decoder.decode(b"", final=True)


class OfTexts:
  """A `Stream` of ids whose text depends on those before.

  A window of ids is decoded with and without the new ones: their difference is
  what they say, spaces included. An end within a character, U+FFFD, waits.

  Args:
    shown: leaves out ids without text.
    decode: the text of a window.
  """

  def __init__(self, shown: Shown, decode: Callable[[Sequence[int]], str]):
    self._shown = shown
    self._decode = decode
    self._known: list[int] = []
    self._new: list[int] = []

  def step(self, id: int) -> str:
    """See `Stream.step`."""
    found = self._shown([id])
    if not found:
      return ""
    self._new += found
    before, now = self._texts()
    if now.endswith("\ufffd") and len(self._new) < _PENDING:
      return ""
    self._known, self._new = self._new, []
    return now[len(before) :]

  def rest(self) -> str:
    """See `Stream.rest`."""
    before, now = self._texts()
    self._known, self._new = [], []
    return now[len(before) :]

  def _texts(self) -> tuple[str, str]:
    return self._decode(self._known), self._decode(self._known + self._new)
