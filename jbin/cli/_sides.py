"""What `jbin cost --diff A B` compares: each side becomes a cost report."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jbin import errors
from jbin.cli import _flags
from jbin.train import config as config_lib

TEXTS = {
  "format": "table (if not given), json, csv, markdown or html",
  "out": "a file to write instead of printing",
}
"""The flags that go with `--diff`, and their help."""
_USAGE = (
  "--diff takes two of: FILE.py[:ARG], a run's folder, a JSON report, or with"
  " --config a rule set as NAME[:ARG][,KEY=VALUE]"
)


@dataclasses.dataclass(frozen=True)
class Sides:
  """Both sides as they were given, and the arguments without them."""

  specs: tuple[str, str]
  config: str
  # The value of --config; "" if there is none.
  rest: list[str]


def take(argv: Sequence[str]) -> Sides | None:
  """The two values of `--diff`; None where it is not given.

  Raises:
    errors.UserError: if there are not two.
  """
  flags = [i for i, a in enumerate(argv) if a.split("=")[0] in _FLAG]
  if not flags:
    return None
  at = flags[0]
  if len(flags) > 1 or "=" in argv[at]:
    raise errors.UserError(f"write --diff A B, once; {_USAGE}")
  specs = list(argv[at + 1 : at + 3])
  if len(specs) < 2 or any(spec.startswith("-") for spec in specs):
    raise errors.UserError(_USAGE)
  others = [*argv[:at], *argv[at + 3 :]]
  _check_others(others)
  config, rest = _flags.take_config(others)
  return Sides((specs[0], specs[1]), config, rest)


_FLAG = ("--diff", "-diff")
_ALONE = ("training", "compiled", "explain", "decode", "param_dtype")


def _check_others(argv: Sequence[str]) -> None:
  """Raises for a flag of `jbin cost` that says nothing about a difference."""
  for argument in argv:
    name = argument.lstrip("-").partition("=")[0]
    if argument.startswith("-") and name in _ALONE:
      cure = ""
      if name not in ("compiled", "explain"):
        cure = (
          "; to compare such reports, write each of them as JSON: jbin cost"
          f" --config=... {argument} --format=json --out=FILE.json"
        )
      raise errors.UserError(f"--{name} does not go with --diff{cure}")


def names(specs: tuple[str, str]) -> tuple[str, str]:
  """The sides without the folders that both are in; equal ones are numbered."""
  parts = [spec.rstrip("/").split("/") for spec in specs]
  shared = 0
  while shared < min(map(len, parts)) - 1 and (
    parts[0][shared] == parts[1][shared]
  ):
    shared += 1
  first, second = ("/".join(part[shared:]) for part in parts)
  if first == second:
    return f"{first} (1)", f"{second} (2)"
  return first, second


def report(spec: str, sides: Sides) -> dict[str, Any]:
  """The cost report of one side as JSON.

  Args:
    spec: the side.
    sides: all that was given; `--config` and overrides go with configs.

  Raises:
    errors.UserError: if the side is nothing that has a cost.
  """
  path = Path(spec)
  if path.is_dir():
    return _folder(path)
  name = spec.partition(":")[0]
  if name.endswith(".py"):
    argv = [f"--config={spec}", *sides.rest]
    _, _, config = _flags.parse("cost", argv, TEXTS, config=True)
    assert config is not None
    return _count(config)
  if path.suffix == ".json" or path.is_file():
    return _json(path)
  if not sides.config:
    raise errors.UserError(
      f"--diff: {spec!r} is no file, folder or FILE.py[:ARG]; a rule set needs"
      " --config=FILE.py, whose model it is for"
    )
  argv = [f"--config={sides.config}", *sides.rest]
  _, _, config = _flags.parse("cost", argv, TEXTS, config=True)
  assert config is not None
  return _ruled(config, _rules(spec), sides.config)


def _ruled(
  config: config_lib.Config, rules: config_lib.Named, name: str
) -> dict[str, Any]:
  """The cost of a config's model under other rules."""
  try:
    return _count(dataclasses.replace(config, rules=rules))
  except errors.UserError as error:
    none = dataclasses.replace(config, rules=config_lib.Named("none"))
    pairs = _count(none)["totals"]["macs_by_bit_pair"]
    if all(pair in ("32x32", "16x16") for pair in pairs):
      raise
    raise errors.UserError(
      f"--config={name} makes a model that has low-bit layers without any"
      " rules; to compare rule sets, take a config of a float model"
    ) from error


def is_config(spec: str, sides: Sides) -> bool:
  """Whether `--config` and its overrides say anything about a side."""
  config = spec.partition(":")[0].endswith(".py")
  return config or (bool(sides.config) and not Path(spec).exists())


def _rules(spec: str) -> config_lib.Named:
  """`bits:w8a8`, `method:xnornet,ends=same`: a rule set and its arguments.

  What stands after the colon is the first argument.
  """
  from jbin import convert

  name, colon, text = spec.partition(":")
  takes = list(inspect.signature(convert.REGISTRY.get(name)).parameters)
  kwargs: dict[str, Any] = {}
  for i, part in enumerate(text.split(",") if colon else ()):
    key, equals, value = part.partition("=")
    if not equals:
      if i or not takes:
        raise errors.UserError(
          f"--diff {spec!r}: {part!r} is no KEY=VALUE of rule set {name!r}"
        )
      key, value = takes[0], part
    kwargs[key] = _value(value)
  return config_lib.Named(name, kwargs)


def _value(text: str) -> Any:
  """A number, true or false where it reads as one, else the text itself."""
  try:
    return json.loads(text)
  except ValueError:
    return text


def _folder(path: Path) -> dict[str, Any]:
  """Of a run, or of a folder in it: a checkpoint.

  The report that the run wrote; while it runs, that of its config.
  """
  for folder in (path, *list(path.absolute().parents)[:2]):
    written = folder / "report" / "cost.json"
    if written.is_file():
      return _json(written)
    if (folder / "config.json").is_file():
      return _count(config_lib.from_mapping(_json(folder / "config.json")))
  raise errors.UserError(
    f"--diff: {path} is no run's folder: it has neither report/cost.json nor"
    " config.json"
  )


def _json(path: Path) -> dict[str, Any]:
  try:
    found = json.loads(path.read_text(encoding="utf-8"))
  except OSError as error:
    raise errors.UserError(
      f"--diff: {path}: {error.strerror or 'cannot be read'}; write it with"
      f" jbin cost --config=... --format=json --out={path}"
    ) from error
  except ValueError as error:
    raise errors.UserError(f"--diff: {path} is not JSON: {error}") from error
  if not isinstance(found, dict):
    raise errors.UserError(
      f"--diff: {path} is not a cost report; write one with jbin cost"
      f" --config=... --format=json --out={path}"
    )
  return found


def _count(config: config_lib.Config) -> dict[str, Any]:
  os.environ.setdefault("JAX_PLATFORMS", "cpu")
  from jbin.train import build, counting

  build.check(config)
  return counting.cost_report(config).to_json()
