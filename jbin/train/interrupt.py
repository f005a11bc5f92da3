"""Being told to stop: SIGTERM sets a flag that the loop reads each step."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Interrupt:
  """`with Interrupt() as stop: ... if stop.requested: save and leave`.

  Cloud machines send SIGTERM before they are taken away. In a thread that is
  not the main one Python allows no handler, and nothing is ever requested.
  """

  def __init__(self) -> None:
    self.requested = False
    self._before: Any = None
    self._installed = False

  def __enter__(self) -> Interrupt:
    """Installs the handler."""
    if threading.current_thread() is threading.main_thread():
      self._before = signal.signal(signal.SIGTERM, self._note)
      self._installed = True
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    """Puts back the handler that was there."""
    del kind, error, trace
    if self._installed:
      signal.signal(signal.SIGTERM, self._before)

  def _note(self, number: int, frame: FrameType | None) -> None:
    del number, frame
    self.requested = True
