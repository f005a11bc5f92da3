"""Where metrics go: JSON lines always, TensorBoard if asked."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jbin import data, errors, tasks


class Writer(Protocol):
  """Takes the numbers of a step."""

  def scalars(self, step: int, split: str, values: Mapping[str, float]) -> None:
    """Writes `values` of a split, measured when `step` steps are done."""
    ...

  def close(self) -> None:
    """Writes what is left."""
    ...


class JsonLines:
  """One JSON object a line: `step`, `split`, then the values in full.

  No line has a time in it, so the file of a run that was interrupted equals
  that of one that was not.
  """

  def __init__(self, path: Path, step: int):
    """Opens a file to go on after `step`; later lines are removed."""
    with errors.about(path):
      _truncate(path, step)
      # Without a buffer there is nothing left to write when it is closed.
      self._file = path.open("ab", buffering=0)
    self._path = path

  def scalars(self, step: int, split: str, values: Mapping[str, Any]) -> None:
    """Writes a line through to the disk, or the bucket that is mounted.

    Raises:
      errors.RunFailed: if it cannot be written, as on a full disk.
    """
    line = json.dumps({"step": step, "split": split, **values})
    left = memoryview((line + "\n").encode())
    try:
      while left:
        left = left[self._file.write(left) :]
      os.fsync(self._file.fileno())
    except OSError as error:
      raise errors.RunFailed(
        f"{self._path}: {error.strerror}, at the line of step {step}; make room"
        " there, and the same command goes on from its newest checkpoint"
      ) from error

  def close(self) -> None:
    """Closes the file."""
    self._file.close()


class TensorBoard:
  """Events for TensorBoard, as `split/name`."""

  def __init__(self, folder: Path, step: int):
    """Opens a folder of events; those after `step` are hidden by it.

    Raises:
      errors.UserError: if tensorboardX is not installed.
    """
    try:
      import tensorboardX
    except ImportError as error:
      raise errors.UserError(
        "tensorboard=True needs the package tensorboardX: pip install"
        " 'jbin[tensorboard]', or set --config.tensorboard=False"
      ) from error
    self._writer = tensorboardX.SummaryWriter(str(folder), purge_step=step + 1)

  def scalars(self, step: int, split: str, values: Mapping[str, float]) -> None:
    """Writes one event for each value."""
    for name, value in values.items():
      self._writer.add_scalar(f"{split}/{name}", value, step)

  def close(self) -> None:
    """Closes the event file."""
    self._writer.close()


def _truncate(path: Path, step: int) -> None:
  """Removes the lines after `step` and a last line that was cut off."""
  if not path.exists():
    return
  kept = []
  text = path.read_text(encoding="utf-8", errors="replace")
  for line in text.splitlines(keepends=True):
    found = _step(line)
    if found is None or found > step:
      break
    kept.append(line)
  draft = path.with_name(path.name + ".draft")
  draft.write_text("".join(kept), encoding="utf-8")
  os.replace(draft, path)


def _step(line: str) -> int | None:
  if not line.endswith("\n"):
    return None
  try:
    record: Any = json.loads(line)
    return int(record["step"])
  except (ValueError, KeyError, TypeError):
    return None


def means(sums: Mapping[str, tuple[Any, Any]]) -> dict[str, float]:
  """The quotient sum / count of each metric; the loss first, then by name.

  What was measured of nothing is left out.

  Correlations and F1 are in place of the means that they follow from; see
  `tasks.summary`.
  """
  found = {
    name: float(total) / float(count)
    for name, (total, count) in sums.items()
    if float(count) > 0
  }
  order = lambda item: (item[0] != "loss", item[0])
  return dict(sorted(tasks.summary(found).items(), key=order))


def not_finite(
  why: str, step: int, skipped: int, saved: int | None
) -> FloatingPointError:
  """The error of a run that the guard ended.

  Args:
    why: what is wrong with the step.
    step: that was not taken.
    skipped: steps that were not, this one among them.
    saved: the checkpoint that the run goes on from; None: there is none.
  """
  before = f" after {skipped - 1} others that were left out" * (skipped > 1)
  cures = _CURES
  if why.startswith("input "):
    cures = "look at that example of the data"
  elif "guard.spike" in why:
    cures = "raise guard.spike, clip gradients (optimizer.clip_norm=1.0)"
  kept = "" if saved is None else f"; the checkpoint of step {saved} is good"
  return FloatingPointError(
    f"step {step} cannot be taken{before}: {why}{kept}; {cures}, or let single"
    f" steps be left out (guard.skip={max(10, 2 * skipped)})"
  )


def check_finite(
  values: Mapping[str, float],
  step: int,
  saved: int | None,
  examples: Iterable[data.Batch],
) -> None:
  """Raises if a value of an evaluation is not finite.

  Args:
    values: by metric.
    step: steps done.
    saved: the newest checkpoint, for the message; None: there is none.
    examples: what was evaluated, which is looked through for the cause.

  Raises:
    FloatingPointError: naming the metric, the step and the cure.
  """
  for name, value in values.items():
    if not math.isfinite(value):
      kept = (
        "" if saved is None else f"; the checkpoint of step {saved} is good"
      )
      raise FloatingPointError(
        f"the test metric '{name}' is not finite at step {step}:"
        f" {_why_not(examples)}{kept}"
      )


def wrong_input(batch: data.Batch, called: str) -> str:
  """Which input of a batch is not finite, and how much of it; "" for none."""
  for name, array in batch.items():
    if np.issubdtype(array.dtype, np.floating):
      wrong = int((~np.isfinite(array)).sum())
      if wrong:
        return (
          f"input '{name}' of {called} has {wrong} of {array.size} values not"
          " finite"
        )
  return ""


def _why_not(examples: Iterable[data.Batch]) -> str:
  for number, batch in enumerate(examples, 1):
    if said := wrong_input(batch, f"the evaluation's batch {number}"):
      return f"{said}; look at these examples"
  return f"its inputs are finite, so the model is too large in places; {_CURES}"


_CURES = (
  "lower optimizer.learning_rate, clip gradients (optimizer.clip_norm=1.0),"
  " compute in float32 (dtype='float32')"
)
