"""The report as one HTML page that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jbin.report import _diff, _diff_view, _layers, _numbers, _read, _view

_TEMPLATES = Path(__file__).parent


def write(workdirs: Sequence[Path], out: Path) -> Path:
  """Writes the report of the runs as `out/index.html` and returns its path.

  The page holds its style, script and figures: it opens anywhere, without a
  network, and stays below 1 MB (long layer tables are cut, and say so).

  Args:
    workdirs: work directories of `jbin train`: each has config.json,
      metrics.jsonl and report/cost.json.
    out: folder for the page; made if it is not there.

  Raises:
    errors.UserError: if a file is missing or broken.
  """
  runs = _read.runs([Path(workdir) for workdir in workdirs])
  out = Path(out)
  out.mkdir(parents=True, exist_ok=True)
  path = out / "index.html"
  path.write_text(_render("page.html", _view.page(runs)), encoding="utf-8")
  return path


def cost_page(cost: Mapping[str, Any]) -> str:
  """The page for a cost report alone (the JSON of `jbin cost`).

  Raises:
    errors.UserError: if a key that the page needs is missing.
  """
  return _render("page.html", _view.page([_read.counted(cost)]))


def diff_page(found: _diff.Diff) -> str:
  """The page of what differs between two cost reports."""
  return _render("diff.html", _diff_view.page(found))


def _render(name: str, view: Mapping[str, Any]) -> str:
  import jinja2  # a page alone needs it

  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_TEMPLATES),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters.update(
    short=_numbers.short,
    exact=_numbers.exact,
    size=_numbers.size,
    shape=_layers.shape,
    json=lambda value: json.dumps(value, indent=2, ensure_ascii=False),
  )
  return environment.get_template(name).render(view)
