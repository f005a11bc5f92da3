"""What the template shows, worked out from the runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from jbin.report import _chart, _numbers, _read, _watched

COLOURS = 6
# Runs that have a colour of their own; style.css has as many.
_ROWS = 1500
# Rows of all layer tables together: the page stays below 1 MB.


@dataclasses.dataclass(frozen=True)
class Card:
  """One large figure at the top."""

  label: str
  figure: str
  note: str


@dataclasses.dataclass(frozen=True)
class Row:
  """One line of the comparison: what is measured, and a cell for each run."""

  label: str
  cells: Sequence[tuple[str, str]]
  # The figure, and small print below it.
  tone: str = ""
  # Class of the colour beside the label.


@dataclasses.dataclass(frozen=True)
class Share:
  """A piece of a bar: its label, figure and part of the whole."""

  label: str
  figure: str
  share: float
  tone: str


@dataclasses.dataclass(frozen=True)
class Layer:
  """A line of the layer table."""

  name: str
  kind: str
  # "conv 3×3×64×64": what it is, and the shape of its weight.
  shapes: str
  bits: str
  tone: str
  macs: int
  ace: int
  share: float
  # Of the run's ACE.
  weights: int
  flagged: bool


def page(runs: Sequence[_read.Run]) -> dict[str, Any]:
  """The variables of the template `page.html`."""
  top = _read.reference(runs)
  watched = _watched.tables(runs)
  budget = _ROWS - _watched.weight(watched)
  views: list[dict[str, Any]] = []
  for i, run in enumerate(runs):
    views.append(_run(run, i % COLOURS, budget))
    budget -= len(views[-1]["layers"])
    views[-1]["watched"] = watched[i]
  return {
    "title": _title(runs),
    "runs": views,
    "cards": _cards(runs, top),
    "rows": _rows(runs, top),
    "charts": _charts(runs),
    "size": (_chart.WIDTH, _chart.HEIGHT),
    "spark_size": (_watched.WIDTH, _watched.HEIGHT),
    "frame": (_chart.LEFT, _chart.TOP, _chart.RIGHT, _chart.BOTTOM),
  }


def _title(runs: Sequence[_read.Run]) -> str:
  models = list(dict.fromkeys(str(run.cost["model"]) for run in runs))
  if len(models) > 2:
    return f"{models[0]} and {len(models) - 1} others"
  return " · ".join(models)


def tone(lhs: int, rhs: int) -> str:
  """The class of the colour of a bit pair, by its product lhs * rhs."""
  for wide in (1, 2, 4, 8, 16):
    if lhs * rhs <= wide * wide:
      return f"b{wide}"
  return "b32"


def _cards(runs: Sequence[_read.Run], top: _read.Run) -> list[Card]:
  star = min(runs, key=lambda run: run.ace)
  other = None if star is top else top
  cards: list[Card] = []
  accuracy = star.final("accuracy")
  if accuracy is not None:
    cards.append(
      Card("Test accuracy", _numbers.percent(accuracy), _gap(accuracy, other))
    )
  if other is None:
    return [
      *cards,
      Card("Effort (ACE)", _numbers.short(star.ace), "for one example"),
      Card("Weights", _numbers.size(star.weight_bytes), "packed"),
    ]
  return [
    *cards,
    Card(
      "Less effort (ACE)",
      _numbers.ratio(other.ace, star.ace),
      f"{_numbers.short(star.ace)} instead of {_numbers.short(other.ace)}",
    ),
    Card(
      "Smaller weights",
      _numbers.ratio(other.weight_bytes, star.weight_bytes),
      f"{_numbers.size(star.weight_bytes)} instead of"
      f" {_numbers.size(other.weight_bytes)}",
    ),
  ]


def _gap(accuracy: float, other: _read.Run | None) -> str:
  theirs = other.final("accuracy") if other else None
  if other is None or theirs is None:
    return "at the end of training"
  return f"{100 * (accuracy - theirs):+.2f} points from {other.name}".replace(
    "-", "−"
  )


def _rows(runs: Sequence[_read.Run], top: _read.Run) -> list[Row]:
  than = "float" if top.is_float else top.name
  rows: list[Row] = []
  for label, metric, form in (
    ("Test accuracy", "accuracy", _numbers.percent),
    ("Test loss", "loss", _numbers.value),
  ):
    finals = [run.final(metric) for run in runs]
    if any(final is not None for final in finals):
      rows.append(Row(label, [(form(final), "") for final in finals]))
  for pair in sorted({pair for run in runs for pair in run.macs}):
    counts = [run.macs.get(pair) for run in runs]
    label = f"MACs of {_numbers.pair(pair)} bits"
    rows.append(Row(label, [_count(n) for n in counts], tone(*pair)))
  rows.append(Row("ACE", [_count(run.ace) for run in runs]))
  if len(runs) > 1:
    ratios = [(_numbers.ratio(top.ace, run.ace), "") for run in runs]
    rows.append(Row(f"ACE, times less than {than}", ratios))
  sizes = [
    (
      _numbers.size(run.weight_bytes),
      f"{_numbers.exact(run.weight_bytes)} bytes",
    )
    for run in runs
  ]
  rows.append(Row("Size of the weights", sizes))
  if len(runs) > 1:
    ratios = [
      (_numbers.ratio(top.weight_bytes, run.weight_bytes), "") for run in runs
    ]
    rows.append(Row(f"Size, times smaller than {than}", ratios))
  return rows


def _count(n: int | None) -> tuple[str, str]:
  if n is None:
    return _numbers.NONE, ""
  brief, whole = _numbers.short(n), _numbers.exact(n)
  return brief, "" if brief == whole else whole


def _charts(runs: Sequence[_read.Run]) -> list[_chart.Chart]:
  found = [
    _chart.lines("Loss", _series(runs, "loss"), _numbers.value),
    _chart.lines(
      "Accuracy", _series(runs, "accuracy"), lambda v: f"{100 * v:.4g} %", True
    ),
  ]
  if len(runs) > 1:
    found += [
      _against(runs, "ACE", [run.ace for run in runs], _numbers.tick),
      _against(
        runs,
        "size",
        [run.weight_bytes for run in runs],
        lambda n: f"{_numbers.tick(n)}B",
      ),
    ]
  return [chart for chart in found if chart is not None]


def _against(
  runs: Sequence[_read.Run],
  what: str,
  xs: Sequence[float],
  label: Callable[[float], str],
) -> _chart.Chart | None:
  """Accuracy of each run against what it costs."""
  data = [
    (x, accuracy, run.name, i % COLOURS)
    for i, (run, x) in enumerate(zip(runs, xs, strict=True))
    if (accuracy := run.final("accuracy")) is not None
  ]
  percent = lambda v: f"{100 * v:.4g} %"
  return _chart.points(
    f"Test accuracy against {what}",
    data,
    f"{what} (logarithmic)",
    (label, percent),
  )


def _series(runs: Sequence[_read.Run], metric: str) -> list[_chart.Series]:
  return [
    _chart.Series(curve, i % COLOURS, split, f"{run.name}, {split}")
    for split in ("train", "test")
    for i, run in enumerate(runs)
    if (curve := run.curves.get((split, metric))) is not None
  ]


def _run(run: _read.Run, colour: int, budget: int) -> dict[str, Any]:
  cost = run.cost
  layers = [_layer(row, run.ace, cost) for row in cost["layers"]]
  return {
    "name": run.name,
    "colour": colour,
    "model": cost["model"],
    "input": _shape(cost.get("input")),
    "config": run.config,
    "bars": _bars(run),
    "layers": layers[: max(budget, 0)],
    "cut": max(len(layers) - max(budget, 0), 0),
    "tallest": max((layer.ace for layer in layers), default=0) or 1,
    "legend": {layer.tone: layer.bits for layer in layers},
    "flagged": list(cost.get("flagged") or ()),
    "ace": run.ace,
    "ace_strict": cost["totals"].get("ace_strict"),
    "elementwise": dict(cost.get("elementwise_scalar_ops") or {}),
    "left_out": dict(cost.get("left_out") or {}),
    "not_counted": list(cost.get("not_counted") or ()),
    "notes": list(cost.get("notes") or ()),
    "diverged": _diverged(run),
  }


def _diverged(run: _read.Run) -> int | None:
  """The first step at which a loss was not finite."""
  steps = [
    step
    for (_, metric), curve in run.curves.items()
    if metric == "loss"
    for step, v in zip(curve.steps, curve.values, strict=True)
    if v != v or v in (float("inf"), float("-inf"))
  ]
  return min(steps, default=None)


def _bars(run: _read.Run) -> list[tuple[str, str, list[Share]]]:
  """MACs, ACE and weight bytes by bits, each as parts of a whole."""
  macs = run.macs
  ace = {pair: n * pair[0] * pair[1] for pair, n in macs.items()}
  weights = {
    (int(bits), int(bits)): int(n) * int(bits) / 8
    for bits, n in run.cost["totals"]["weights_by_bits"].items()
  }
  bars: list[tuple[str, str, list[Share]]] = []
  for label, parts, form, name in (
    ("MACs", macs, _numbers.short, _numbers.pair),
    ("ACE", ace, _numbers.short, _numbers.pair),
    ("Weights", weights, _numbers.size, lambda pair: f"{pair[0]} bit"),
  ):
    whole = sum(parts.values())
    shares = [
      Share(name(pair), form(n), n / whole, tone(*pair))
      for pair, n in sorted(parts.items())
      if n
    ]
    bars.append((label, form(whole), shares))
  return bars


def _layer(row: dict[str, Any], ace: int, cost: Any) -> Layer:
  pair = int(row["lhs_bits"]), int(row["rhs_bits"])
  mine = int(row.get("ace", row["macs"] * pair[0] * pair[1]))
  name = str(row["name"])
  return Layer(
    name=name,
    kind=f"{row['kind']} {_shape(row.get('kernel'))}".replace("_", " "),
    shapes=f"{_shape(row.get('in_shape'))} → {_shape(row.get('out_shape'))}",
    bits=_numbers.pair(pair),
    tone=tone(*pair),
    macs=int(row["macs"]),
    ace=mine,
    share=mine / ace if ace else 0.0,
    weights=int(row["weights"]),
    flagged=name in (cost.get("flagged") or ()),
  )


def _shape(shape: Any) -> str:
  """1×28×28; several shapes with commas."""
  if not shape:
    return _numbers.NONE
  if isinstance(shape[0], list | tuple):
    return ", ".join(_shape(part) for part in shape)
  return "×".join(str(n) for n in shape)
