"""A trace of some steps, as JAX's profiler sees them."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import jax


class Trace:
  """Traces the steps `first` to `last` of a run into a folder.

  `tensorboard --logdir=FOLDER` (with the plug-in for profiles) and
  https://ui.perfetto.dev show it. Of a run that goes on behind `first`, those
  of the steps that are left are traced; behind `last`, none.
  """

  def __init__(self, first: int, last: int, folder: Path):
    """Begins nothing yet.

    Args:
      first: the first step, from 1 on; 0: no step at all.
      last: the last step; 0: the first alone.
      folder: where the trace goes. Only one process of a run should have one
        that traces.
    """
    self._steps = range(first, max(first, last) + 1) if first else range(0)
    self._folder = folder
    self._open = contextlib.ExitStack()
    self._running = False

  def before(self, step: int) -> None:
    """To be called before a step; the trace begins before the first."""
    if step not in self._steps:
      return
    if not self._running:
      self._folder.mkdir(parents=True, exist_ok=True)
      jax.profiler.start_trace(self._folder)
      self._running = True
    note = jax.profiler.StepTraceAnnotation("train", step_num=step)
    self._open.enter_context(note)

  def after(self, step: int, result: Any) -> bool:
    """To be called after a step; the trace ends when the last is done.

    Args:
      step: the one that was given to the device.
      result: what it gives, which the last one is waited for by.

    Returns:
      Whether a trace was written now.
    """
    self._open.close()
    if not self._running or step + 1 in self._steps:
      return False
    jax.block_until_ready(result)
    self._stop()
    return True

  def close(self) -> None:
    """Writes what there is, if the run ends between first and last step."""
    self._open.close()
    if self._running:
      self._stop()

  def _stop(self) -> None:
    self._running = False
    jax.profiler.stop_trace()
