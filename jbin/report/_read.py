"""What a work directory says about its run, read and checked."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jbin import errors
from jbin.report import _check


@dataclasses.dataclass(frozen=True)
class Curve:
  """One metric of one split over the steps; values may be NaN."""

  steps: tuple[int, ...]
  values: tuple[float, ...]

  @property
  def last(self) -> float | None:
    """The value at the end; None without any."""
    return self.values[-1] if self.values else None


@dataclasses.dataclass(frozen=True)
class Run:
  """One run: what was asked for, how training went, what the net costs."""

  name: str
  workdir: Path
  config: Mapping[str, Any]
  curves: Mapping[tuple[str, str], Curve]
  # By (split, metric): ("test", "accuracy").
  cost: Mapping[str, Any]
  # The JSON of the cost report.
  watched: Mapping[str, Mapping[str, Curve]] = dataclasses.field(
    default_factory=dict[str, Mapping[str, Curve]]
  )
  # By layer and name, from watch.jsonl; empty if the run was not watched.

  def final(self, metric: str, split: str = "test") -> float | None:
    """The last value of a metric; None if it was never measured."""
    curve = self.curves.get((split, metric))
    return curve.last if curve else None

  @property
  def macs(self) -> dict[tuple[int, int], int]:
    """MACs by (activation bits, weight bits), narrow first."""
    pairs = {
      bit_pair(key): int(count)
      for key, count in self.cost["totals"]["macs_by_bit_pair"].items()
    }
    return dict(sorted(pairs.items()))

  @property
  def ace(self) -> int:
    """Arithmetic computation effort."""
    return int(self.cost["totals"]["ace"])

  @property
  def weight_bytes(self) -> float:
    """Bytes of the packed weights."""
    return self.cost["totals"]["weight_bytes"]

  @property
  def is_float(self) -> bool:
    """Whether no product is narrower than 16 bits on either side."""
    return all(min(pair) >= 16 for pair in self.macs)


def counted_for(cost: Mapping[str, Any]) -> str:
  """Of what the figures are: "one example", "a batch of 64"."""
  whole = "one training step" if cost.get("training") else "one example"
  return str(cost.get("counted_for") or whole)


def bit_pair(key: str) -> tuple[int, int]:
  """(8, 1) from "8x1"."""
  lhs, rhs = key.split("x")
  return int(lhs), int(rhs)


def runs(workdirs: Sequence[Path]) -> list[Run]:
  """The runs of the directories, under names that tell them apart.

  Raises:
    errors.UserError: if there is none, or a file is missing or broken; the
      message names the file and the cure.
  """
  paths = [Path(workdir) for workdir in workdirs]
  if not paths:
    raise errors.UserError("a report needs at least one work directory")
  return [
    _run(path, name) for path, name in zip(paths, _names(paths), strict=True)
  ]


def counted(cost: Mapping[str, Any]) -> Run:
  """A run that was never trained: its cost report alone.

  Raises:
    errors.UserError: if a key is missing.
  """
  _check.check(cost, "the cost report", "jbin cost --config=... --format=json")
  return Run(str(cost["model"]), Path(), {}, {}, cost)


def reference(found: Sequence[Run]) -> Run:
  """The run that the others are compared with.

  The float run of the largest ACE; without a float run, the largest of all.
  """
  return max(found, key=lambda run: (run.is_float, run.ace))


def _names(paths: Sequence[Path]) -> list[str]:
  """The shortest path endings that differ; equal paths get a number."""
  parts = [path.resolve().parts for path in paths]
  names = ["/".join(p) for p in parts]
  for depth in range(1, max(map(len, parts)) + 1):
    short = ["/".join(p[-depth:]) for p in parts]
    if len(set(short)) == len(set(names)):
      names = short
      break
  return [
    name if names.count(name) == 1 else f"{name} ({i + 1})"
    for i, name in enumerate(names)
  ]


def _run(workdir: Path, name: str) -> Run:
  if not workdir.is_dir():
    raise errors.UserError(
      f"no work directory {workdir}; train into it first: jbin train"
      f" --config=... --workdir={workdir}"
    )
  train = f"let the run finish: jbin train --config=... --workdir={workdir}"
  cost_path = workdir / "report" / "cost.json"
  count = f"jbin cost --config=... --format=json --out={cost_path}"
  config = _json(workdir / "config.json", train)
  cost = _json(cost_path, f"{train}, or count alone: {count}")
  _check.check(cost, cost_path, count)
  lines = _read(workdir / "metrics.jsonl", train).splitlines(keepends=True)
  curves = _curves(_records(lines, workdir / "metrics.jsonl"))
  return Run(name, workdir, config, curves, cost, _watched(workdir))


def _read(path: Path, cure: str) -> str:
  try:
    return path.read_text(encoding="utf-8")
  except OSError as error:
    reason = error.strerror or "cannot be read"
    raise errors.UserError(f"{path}: {reason}; {cure}") from error


def _json(path: Path, cure: str) -> dict[str, Any]:
  text = _read(path, cure)
  try:
    value = json.loads(text)
  except ValueError as error:
    raise errors.UserError(f"{path} is not JSON ({error}); {cure}") from error
  if not isinstance(value, dict):
    raise errors.UserError(f"{path} is not a JSON object; {cure}")
  return value  # pyright: ignore[reportUnknownVariableType]


def _records(lines: Sequence[str], path: Path) -> Iterable[dict[str, Any]]:
  for number, line in enumerate(lines, 1):
    try:
      yield json.loads(line)
    except ValueError as error:
      if number == len(lines) and not line.endswith("\n"):
        return  # the run was stopped while it wrote this line
      raise errors.UserError(
        f"{path}:{number} is not JSON; remove that line and train on"
      ) from error


def _watched(workdir: Path) -> dict[str, dict[str, Curve]]:
  path = workdir / "watch.jsonl"
  if not path.exists():
    return {}
  lines = _read(path, "let whoever runs the report read it").splitlines(True)
  layers: dict[str, list[dict[str, Any]]] = {}
  for record in _records(lines, path):
    at = {"step": record["step"], "split": ""}
    for layer, numbers in record["layers"].items():
      layers.setdefault(str(layer), []).append({**numbers, **at})
  return {
    layer: {name: curve for (_, name), curve in _curves(records).items()}
    for layer, records in layers.items()
  }


def _curves(
  records: Iterable[Mapping[str, Any]],
) -> dict[tuple[str, str], Curve]:
  points: dict[tuple[str, str], dict[int, float]] = {}
  for record in records:
    step, split = int(record["step"]), str(record["split"])
    for key, value in record.items():
      if key in ("step", "split") or isinstance(value, bool):
        continue
      if value is None:
        value = float("nan")  # how some writers spell it
      if isinstance(value, int | float):
        points.setdefault((split, key), {})[step] = float(value)
  return {
    key: Curve(tuple(at), tuple(at.values())) for key, at in points.items()
  }
