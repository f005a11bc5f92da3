"""Being told to stop: SIGTERM sets a flag that the loop reads each step."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Generator
from types import FrameType, TracebackType
from typing import Any


@contextlib.contextmanager
def leaving() -> Generator[None]:
  """Context: SIGTERM ends the process at once, with code 0.

  For before a run, when nothing is there to be saved (all that it needs is
  being loaded), and after it; inside, `Interrupt` takes over.
  """
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  before = signal.signal(signal.SIGTERM, _leave)
  try:
    yield
  finally:
    signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def _leave(number: int, frame: FrameType | None) -> None:
  del number, frame
  text = "stopped by SIGTERM outside of the steps; the same command goes on\n"
  os.write(2, text.encode())
  os._exit(0)


class Interrupt:
  """`with Interrupt() as stop: ... if stop.requested: save and leave`.

  Cloud machines send SIGTERM before they are taken away. What comes after it
  does not disturb the saving: another SIGTERM says nothing new, and ^C has to
  be pressed twice. In a thread that is not the main one Python allows no
  handler, and nothing is ever requested.
  """

  def __init__(self) -> None:
    self.requested = False
    self._insisted = False
    self._before: dict[int, Any] = {}

  def __enter__(self) -> Interrupt:
    """Installs the handlers."""
    if threading.current_thread() is threading.main_thread():
      handlers = {signal.SIGTERM: self._note, signal.SIGINT: self._wait}
      for number, handler in handlers.items():
        self._before[number] = signal.signal(number, handler)
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    """Puts back the handlers that were there."""
    del kind, error, trace
    for number, handler in self._before.items():
      # None: not of Python, which cannot put it back.
      signal.signal(number, signal.SIG_DFL if handler is None else handler)

  def _note(self, number: int, frame: FrameType | None) -> None:
    del number, frame
    self.requested = True

  def _wait(self, number: int, frame: FrameType | None) -> None:
    if self.requested and not self._insisted:
      self._insisted = True
    elif callable(before := self._before[number]):
      before(number, frame)
    elif before != signal.SIG_IGN:
      raise KeyboardInterrupt
