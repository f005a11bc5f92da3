"""`jbin cost`: what a config's model costs, without running it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from jbin import errors
from jbin.cli import _devices, _flags, _sides
from jbin.train import config as config_lib

if TYPE_CHECKING:
  from jbin import cost, report as report_lib

T = TypeVar("T")
_TEXTS = _sides.TEXTS | {
  "param_dtype": "in which float parameters are stored, such as bfloat16",
  "explain": "a layer's path, or nothing for all: why operands have their bits",
}
_SWITCHES = {
  "decode": "count one token of a language model, from its cache",
  "training": "count a whole training step: forward, backward, update",
  "compiled": "with --training: beside XLA's figures, and with transfers",
}
_DIFF = (
  "A B: what differs between two of FILE.py[:ARG], a run's\n"
  f"{'':<26}folder, a JSON report, or (with --config) rule sets,\n"
  f"{'':<26}as bits:w8a8 or method:xnornet,ends=same"
)


def main(argv: Sequence[str]) -> None:
  """Prints the report, or writes it to `--out`."""
  sides = None if {"-h", "--help"} & set(argv) else _sides.take(argv)
  if sides is not None:
    _diff(sides)
    return
  given, _, config = _flags.parse(
    "cost",
    argv,
    _TEXTS,
    switches=_SWITCHES,
    config=True,
    notes={"diff": _DIFF},
  )
  assert config is not None
  form = _form(given["format"], FORMATS)
  if given["compiled"] and not given["training"]:
    raise errors.UserError(
      "--compiled is for a training step; add --training, or leave it out"
    )
  stored = given["param_dtype"] or ""
  if given["training"] and (given["decode"] or stored):
    other = "--decode" if given["decode"] else "--param_dtype"
    raise errors.UserError(
      f"{other} is of a model at work, and --training of a step that trains it;"
      " leave one of them out"
    )
  if given["explain"] is not None and given["format"]:
    raise errors.UserError(
      "--explain prints text, which has no --format; leave one of them out"
    )
  _devices.pretend(config.mesh if given["compiled"] else config_lib.Mesh())
  from jbin.train import build, counting

  build.check(config)
  if given["training"]:
    found = counting.training_report(config, compiled=given["compiled"])
  elif given["decode"]:
    found = counting.decoding_report(config, param_dtype=stored)
  else:
    found = counting.cost_report(config, param_dtype=stored)
  path = given["explain"]
  _write(form(found) if path is None else found.explain(path), given["out"])


def _diff(sides: _sides.Sides) -> None:
  configs = [spec for spec in sides.specs if _sides.is_config(spec, sides)]
  if configs:
    spec = configs[0] if configs[0].partition(":")[0].endswith(".py") else ""
    argv = [f"--config={spec or sides.config}", *sides.rest]
    given, _, _ = _flags.parse("cost", argv, _sides.TEXTS, config=True)
  elif sides.config:
    raise errors.UserError(
      "--config says whose model rule sets are for, and neither side of --diff"
      " is one"
    )
  else:
    given, _, _ = _flags.parse("cost", sides.rest, _sides.TEXTS)
  form = _form(given["format"], DIFFS)
  a, b = (_sides.report(spec, sides) for spec in sides.specs)
  from jbin import report

  _write(form(report.diff(a, b, _sides.names(sides.specs))), given["out"])


def _form(
  name: str | None, forms: Mapping[str, Callable[[T], str]]
) -> Callable[[T], str]:
  name = name or "table"
  if name not in forms:
    raise errors.UnknownName("format", name, forms)
  return forms[name]


def _write(text: str, out: str | None) -> None:
  if out:
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")
  else:
    print(text)


def _html(found: cost.Report) -> str:
  from jbin import report

  return report.cost_page(found.to_json())


def _of_diff(form: str) -> Callable[[report_lib.Diff], str]:
  """A form of the difference; the room is loaded only when it is asked for."""

  def write(found: report_lib.Diff) -> str:
    from jbin import report

    return str(getattr(report, f"diff_{form}")(found)).rstrip("\n")

  return write


FORMATS: dict[str, Callable[[cost.Report], str]] = {
  "table": lambda report: report.to_table(),
  "json": lambda report: json.dumps(report.to_json(), indent=2),
  "csv": lambda report: report.to_csv().rstrip("\n"),
  "markdown": lambda report: report.to_markdown(),
  "html": _html,
}
DIFFS: dict[str, Callable[[report_lib.Diff], str]] = {
  "table": _of_diff("table"),
  "json": lambda found: json.dumps(found.to_json(), indent=2),
  "csv": _of_diff("csv"),
  "markdown": _of_diff("markdown"),
  "html": _of_diff("page"),
}
