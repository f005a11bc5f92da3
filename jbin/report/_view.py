"""What the template shows, worked out from the runs."""

from __future__ import annotations

import bisect
import dataclasses
import html
import itertools
from collections.abc import Callable, Sequence
from typing import Any

from jbin.report import (
  _chart,
  _cost,
  _layers,
  _main,
  _numbers,
  _read,
  _scatter,
  _step,
  _watched,
)

COLOURS = 6
# Runs that have a colour of their own; page.css has as many.
_BYTES = 600_000
# Of all layer tables together: the page stays below 1 MB.
_ROW = 260
# Bytes of a row without its texts.
_CELLS = 600
# Cells of all drawings of modules together.


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


def page(runs: Sequence[_read.Run]) -> dict[str, Any]:
  """The variables of the template `page.html`."""
  top = _read.reference(runs)
  watched = _watched.tables(runs)
  budget = _BYTES - _ROW * _watched.weight(watched)
  views: list[dict[str, Any]] = []
  for i, run in enumerate(runs):
    cells = _CELLS // len(runs)
    views.append(_run(run, i % COLOURS, budget, cells))
    budget -= views[-1]["bytes"]
    views[-1]["watched"] = watched[i]
  return {
    "title": _title(runs),
    "scopes": list(dict.fromkeys(_read.counted_for(r.cost) for r in runs)),
    "runs": views,
    "cards": _cards(runs, top),
    "rows": _rows(runs, top),
    "charts": _charts(runs),
    "metrics": _layers.METRICS,
    "conventions": _cost.conventions(runs),
    "chips": _cost.chips(runs),
    "scatters": _scatter.plots(runs, COLOURS),
    "published": _scatter.published(),
    "texts": any(map(_main.reads_text, runs)),
    "foreign": _scatter.others(runs),
    "size": (_chart.WIDTH, _chart.HEIGHT),
    "spark_size": (_watched.WIDTH, _watched.HEIGHT),
    "frame": (_chart.LEFT, _chart.TOP, _chart.RIGHT, _chart.BOTTOM),
  }


def _title(runs: Sequence[_read.Run]) -> str:
  models = list(dict.fromkeys(str(run.cost["model"]) for run in runs))
  if len(models) > 2:
    return f"{models[0]} and {len(models) - 1} others"
  return " · ".join(models)


def _cards(runs: Sequence[_read.Run], top: _read.Run) -> list[Card]:
  star = min(runs, key=lambda run: run.ace)
  other = None if star is top else top
  cards: list[Card] = []
  main = _main.of(runs)
  final = star.final(main.metric)
  if final is not None:
    note = _main.note(star, other, main)
    cards.append(Card(main.title, main.form(final), note))
  if other is None:
    return [
      *cards,
      Card("Effort (ACE)", _numbers.short(star.ace), _of_float(star)),
      *([] if cards else [_macs_card(star)]),
      Card("Weights", _numbers.size(star.weight_bytes), _packed(star)),
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


def _of_float(run: _read.Run) -> str:
  """What the same products of 16-bit floats would be times."""
  macs = sum(run.macs.values())
  if run.is_float or not run.ace:
    return "bits of both sides × MACs"
  return f"{_numbers.ratio(256 * macs, run.ace)} less than in bfloat16"


def _macs_card(run: _read.Run) -> Card:
  macs = sum(run.macs.values())
  note = "no products"
  if macs:
    pair, most = max(run.macs.items(), key=lambda item: item[1])
    note = f"{100 * most / macs:.3g} % of {_numbers.pair(pair)} bits"
  return Card("MACs", _numbers.short(macs), note)


def _packed(run: _read.Run) -> str:
  """How much smaller than 32-bit floats the weights are."""
  table = run.cost["totals"]["weights_by_bits"]
  wide = 4 * sum(int(n) for n in table.values())
  if run.is_float or not run.weight_bytes:
    return "of all products"
  return (
    f"packed, {_numbers.ratio(wide, run.weight_bytes)} less than in float32"
  )


def _rows(runs: Sequence[_read.Run], top: _read.Run) -> list[Row]:
  than = "float" if top.is_float else top.name
  if len(runs) == 1:
    return _pairs(top)
  rows = [
    Row(label, [(cell, "") for cell in cells])
    for label, cells in _main.rows(runs)
  ]
  for pair in sorted({pair for run in runs for pair in run.macs}):
    counts = [run.macs.get(pair) for run in runs]
    label = f"MACs of {_numbers.pair(pair)} bits"
    rows.append(Row(label, [_count(n) for n in counts], _layers.tone(*pair)))
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


def _pairs(run: _read.Run) -> list[Row]:
  """The bit pairs of a run alone, and their sum; the last is the sum."""
  found: list[Row] = []
  macs = sum(run.macs.values())
  for pair, n in [*run.macs.items(), (None, macs)]:
    ace = run.ace if pair is None else n * pair[0] * pair[1]
    shares = [
      f"{100 * part / whole:.3g} %" if whole else _numbers.NONE
      for part, whole in ((n, macs), (ace, run.ace))
    ]
    cells = [_count(n), (shares[0], ""), _count(ace), (shares[1], "")]
    label = "All" if pair is None else _numbers.pair(pair)
    found.append(Row(label, cells, _layers.tone(*pair) if pair else ""))
  return found


def _count(n: int | None) -> tuple[str, str]:
  if n is None:
    return _numbers.NONE, ""
  brief, whole = _numbers.short(n), _numbers.exact(n)
  return brief, "" if brief == whole else whole


def _charts(runs: Sequence[_read.Run]) -> list[_chart.Chart]:
  main = _main.of(runs)
  found = [
    _chart.lines(_main.loss_name(runs), _series(runs, "loss"), _numbers.value),
    _chart.lines(
      main.name,
      _series(runs, main.metric),
      main.tick,
      main.share,
      late=not main.share,
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
  drawn = [chart for chart in found if chart is not None]
  if not main.lower_is_better:
    return drawn
  return [
    dataclasses.replace(chart, note=f"{chart.note} (lower is better)")
    if main.name.lower() in chart.title.lower()
    else chart
    for chart in drawn
  ]


def _against(
  runs: Sequence[_read.Run],
  what: str,
  xs: Sequence[float],
  label: Callable[[float], str],
) -> _chart.Chart | None:
  """The main figure of each run against what it costs."""
  main = _main.of(runs)
  data = [
    (x, final, run.name, i % COLOURS)
    for i, (run, x) in enumerate(zip(runs, xs, strict=True))
    if (final := run.final(main.metric)) is not None
  ]
  return _chart.points(
    f"{main.title} against {what}",
    data,
    f"{what} (logarithmic)",
    (label, main.tick),
    main.share,
  )


def _series(runs: Sequence[_read.Run], metric: str) -> list[_chart.Series]:
  return [
    _chart.Series(curve, i % COLOURS, split, f"{run.name}, {split}")
    for split in ("train", "test")
    for i, run in enumerate(runs)
    if (curve := run.curves.get((split, metric))) is not None
  ]


def _run(
  run: _read.Run, colour: int, budget: int, cells: int
) -> dict[str, Any]:
  cost = run.cost
  found: list[Any] = cost["layers"]
  sizes = list(itertools.accumulate(map(_bytes, found)))
  kept = found[: bisect.bisect_right(sizes, budget)]
  top = _layers.tree(found)
  rows = _layers.rows(top, cost.get("flagged") or (), len(kept))
  memory: dict[str, Any] = cost.get("memory") or {}
  return _cost.omissions(run) | {
    "name": run.name,
    "colour": colour,
    "model": cost["model"],
    "input": _layers.shape(_inputs(cost.get("input"))),
    "counted_for": _read.counted_for(cost),
    "config": run.config,
    "bars": _cost.bars(run),
    "layers": rows,
    "bytes": sizes[len(kept) - 1] if kept else 0,
    "count": len(found),
    "cut": len(found) - len(kept),
    "tallest": max((row.ace for row in rows if not row.module), default=0) or 1,
    "legend": _legend(run),
    "icicle": _layers.icicle(top, str(cost["model"]), cells),
    "sizes": _cost.sizes(cost),
    "activations": [
      memory[key]
      for key in ("activations_bytes", "activations_tagged_bytes")
      if memory.get(key) and not cost.get("training")
    ],
    "sizes_without": str(memory.get("leaves_out", "")).replace("`", ""),
    "phases": _step.phases(cost),
    "step": _step.step(cost),
    "training": bool(cost.get("training")),
    "diverged": _diverged(run),
  }


def _inputs(given: Any) -> Any:
  """The inputs without those of one number for each example, as labels."""
  if not given or not isinstance(given[0], list):
    return given
  return [shape for shape in given if shape]


def _bytes(layer: dict[str, Any]) -> int:
  """About what a layer takes in the page, with its part of other lists."""
  texts = [layer["name"], layer["name"], layer["kind"], layer.get("kernel")]
  texts += [layer.get("in_shape"), layer.get("out_shape")]
  return _ROW + sum(len(html.escape(str(text))) for text in texts)


def _legend(run: _read.Run) -> dict[str, str]:
  """Bit pairs by colour, narrow first."""
  found: dict[str, list[str]] = {}
  for pair in run.macs:
    found.setdefault(_layers.tone(*pair), []).append(_numbers.pair(pair))
  return {tone: f"{', '.join(pairs)} bits" for tone, pairs in found.items()}


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
