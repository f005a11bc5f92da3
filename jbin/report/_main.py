"""Which figure of the runs comes first, and those that stand beside it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

from jbin.report import _numbers, _read

_TOLERANCE = 1e-4
# Two means of the same numbers, summed in other orders, are closer.


@dataclasses.dataclass(frozen=True)
class Figure:
  """A metric: its titles, how it reads, and which end of it is good."""

  metric: str
  name: str
  # As the title of a chart: "Accuracy".
  title: str
  # Of the value on the test split: "Test accuracy".
  form: Callable[[float | None], str]
  tick: Callable[[float], str]
  unit: str
  # Of a difference: "points".
  decimals: int
  # Of a difference.
  times: float = 1.0
  # What a difference is multiplied by to be in `unit`.
  lower_is_better: bool = False

  @property
  def share(self) -> bool:
    """Whether its values are in [0, 1]."""
    return self.metric == "accuracy"

  def gap(self, mine: float, theirs: float) -> str:
    """How far `mine` is above `theirs`: "−1.20 points"."""
    off = f"{self.times * (mine - theirs):+.{self.decimals}f}"
    return f"{off} {self.unit}".replace("-", "−")


def _bits(x: float | None) -> str:
  return _numbers.fixed(x, 3)


def _nats(x: float | None) -> str:
  found = _numbers.fixed(x, 3)
  return f"{found} nats" if _finite(x) else found


ACCURACY = Figure(
  metric="accuracy",
  name="Accuracy",
  title="Test accuracy",
  form=_numbers.percent,
  tick=lambda v: f"{100 * v:.4g} %",
  unit="points",
  decimals=2,
  times=100,
)
BITS = Figure(
  metric="bits_per_byte",
  name="Bits per byte",
  title="Test bits per byte",
  form=_bits,
  tick=lambda v: f"{v:.4g}",
  unit="bits",
  decimals=3,
  lower_is_better=True,
)
_Line = tuple[str, list[str]]
# What is measured, and a cell for each run.


def of(runs: Sequence[_read.Run]) -> Figure:
  """The figure by which all of the runs can be compared.

  Bits per byte if every run that measured anything has them, and accuracy
  otherwise.
  """
  told = [run for run in runs if run.curves]
  return BITS if told and all(map(reads_text, told)) else ACCURACY


def reads_text(run: _read.Run) -> bool:
  """Whether the run has bits per byte, as language models do."""
  return any(metric == BITS.metric for _, metric in run.curves)


def rows(runs: Sequence[_read.Run]) -> list[_Line]:
  """The figures of the test split, side by side, the main one first."""
  loss = (f"Test {loss_name(runs).lower()}", "loss", _numbers.value)
  if of(runs) is BITS:
    found = [("Next token found", "accuracy", _numbers.percent)]
    return bits_rows(runs) + _lines(
      runs, [*found, *([loss] if is_taught(runs) else [])]
    )
  accuracy = (ACCURACY.title, ACCURACY.metric, ACCURACY.form)
  return _lines(runs, [accuracy, loss]) + bits_rows(runs)


def bits_rows(runs: Sequence[_read.Run]) -> list[_Line]:
  """What language models alone have; no line without any."""
  bits = (BITS.title, BITS.metric, BITS.form)
  return _lines(runs, [bits, ("Test cross entropy", "cross_entropy", _nats)])


def _lines(
  runs: Sequence[_read.Run],
  wanted: Sequence[tuple[str, str, Callable[[float | None], str]]],
) -> list[_Line]:
  """A line of each (label, metric, form) that some run has."""
  found: list[_Line] = []
  for label, metric, form in wanted:
    finals = [run.final(metric) for run in runs]
    if any(final is not None for final in finals):
      found.append((label, [form(final) for final in finals]))
  return found


def loss_name(runs: Sequence[_read.Run]) -> str:
  """What the losses are called: they need not be of one kind."""
  return "Loss, as trained" if is_taught(runs) else "Loss"


def is_taught(runs: Sequence[_read.Run]) -> bool:
  """Whether a language model had another loss than its cross entropy."""
  pairs = [
    (run.final("loss", split), run.final("cross_entropy", split))
    for run in runs
    for split in ("train", "test")
    if reads_text(run)
  ]
  return any(
    loss is not None
    and entropy is not None
    and math.isfinite(loss)
    and not math.isclose(loss, entropy, rel_tol=_TOLERANCE)
    for loss, entropy in pairs
  )


def note(star: _read.Run, other: _read.Run | None, figure: Figure) -> str:
  """What stands below the main figure of a run: how far it is from another."""
  mine = star.final(figure.metric)
  theirs = other.final(figure.metric) if other else None
  if other is not None and mine is not None and theirs is not None:
    return f"{figure.gap(mine, theirs)} from {other.name}"
  if figure is not BITS:
    return "at the end of training"
  entropy, found = star.final("cross_entropy"), star.final("accuracy")
  beside = [f"{_nats(entropy)} a token"] if _finite(entropy) else []
  if _finite(found):
    beside.append(f"{_numbers.percent(found)} of tokens found")
  return ", ".join(beside) or "at the end of training"


def _finite(x: float | None) -> bool:
  return x is not None and math.isfinite(x)
