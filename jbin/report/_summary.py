"""The comparison of runs as a plain table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jbin import tables
from jbin.report import _main, _numbers, _read


def summary(workdirs: Sequence[Path], page: Path | None = None) -> str:
  """A table of the runs side by side, in plain text.

  Test accuracy (bits per byte and cross entropy of language models), MACs of
  one example by bit pair, ACE, bytes of the packed weights, and the last two as
  ratios to the float run (to the run of the largest ACE if none is float).

  Args:
    workdirs: work directories of `jbin train`.
    page: path of the HTML report to name in the last line.

  Raises:
    errors.UserError: if a file is missing or broken.
  """
  runs = _read.runs([Path(workdir) for workdir in workdirs])
  rows = [("", *(run.name for run in runs)), *_rows(runs)]
  lines = tables.align(rows, "<" + ">" * len(runs))
  rule = "-" * max(map(len, lines))
  lines = [lines[0], rule, *lines[1:], rule]
  lines.append("per example; ACE = sum of MACs x activation bits x weight bits")
  if page is not None:
    lines.append(f"report: {page}")
  return "\n".join(lines)


def _rows(runs: Sequence[_read.Run]) -> list[tuple[str, ...]]:
  top = _read.reference(runs)
  than = "float" if top.is_float else top.name
  pairs = sorted({pair for run in runs for pair in run.macs})
  rows = _measured(runs)
  for lhs, rhs in pairs:
    counts = (run.macs.get((lhs, rhs)) for run in runs)
    cells = (_numbers.NONE if n is None else _numbers.exact(n) for n in counts)
    rows.append((f"MACs of {lhs} x {rhs} bits", *cells))
  sizes = [run.weight_bytes for run in runs]
  rows.append(("ACE", *(_numbers.exact(run.ace) for run in runs)))
  if len(runs) > 1:
    less = (_numbers.ratio(top.ace, run.ace) for run in runs)
    rows.append((f"  times less than {than}", *less))
  rows.append(("weights in bytes", *map(_numbers.exact, sizes)))
  if len(runs) > 1:
    less = (_numbers.ratio(top.weight_bytes, n) for n in sizes)
    rows.append((f"  times smaller than {than}", *less))
  return rows


def _measured(runs: Sequence[_read.Run]) -> list[tuple[str, ...]]:
  """What was measured at the end of training, the main figure first."""
  main = _main.of(runs)
  found = (main.title, [main.form(run.final(main.metric)) for run in runs])
  if main is _main.BITS:
    lines = _main.rows(runs) or [found]
  elif all(run.final(main.metric) is None for run in runs):
    losses = [_numbers.value(run.final("loss")) for run in runs]
    lines = [("Test loss", losses), *_main.bits_rows(runs)]
  else:
    lines = [found, *_main.bits_rows(runs)]
  return [(label[0].lower() + label[1:], *cells) for label, cells in lines]
