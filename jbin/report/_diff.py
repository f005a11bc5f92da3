"""What differs between two cost reports, layer by layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jbin.report import _layers, _numbers, _read

# What is compared where no report has the key "conventions".
_TOTALS = {
  "ace": ("ACE", ""),
  "ace_strict": ("ACE, strict", ""),
  "macs": ("MACs", ""),
  "cpu64_binary_64th_rest_1": ("CPU64, binary/64", "OPs"),
  "cpu64_maxbits_64": ("CPU64, max(bits)/64", "OPs"),
  "weight_bytes": ("weights", "bytes"),
}


@dataclasses.dataclass(frozen=True)
class Side:
  """A layer as one of the reports has it."""

  bits: tuple[int, int]
  macs: int
  ace: int
  bytes: float
  kernel: str

  def to_json(self) -> dict[str, Any]:
    """The fields as JSON values."""
    return {
      "bits": f"{self.bits[0]}x{self.bits[1]}",
      "macs": self.macs,
      "ace": self.ace,
      "weight_bytes": self.bytes,
      "kernel": self.kernel,
    }


@dataclasses.dataclass(frozen=True)
class Line:
  """A layer that either report has; `a` or `b` is None where it has not."""

  name: str
  phase: str
  a: Side | None
  b: Side | None

  @property
  def change(self) -> str:
    """One of "added", "removed" and "same", or what changed: "bits, ACE"."""
    if self.a is None:
      return "added"
    if self.b is None:
      return "removed"
    pairs = (
      ("bits", self.a.bits, self.b.bits),
      ("kernel", self.a.kernel, self.b.kernel),
      ("MACs", self.a.macs, self.b.macs),
      ("ACE", self.a.ace, self.b.ace),
      ("bytes", self.a.bytes, self.b.bytes),
    )
    return ", ".join(label for label, x, y in pairs if x != y) or "same"


@dataclasses.dataclass(frozen=True)
class Total:
  """A figure of both reports."""

  name: str
  title: str
  unit: str
  a: float
  b: float

  @property
  def ratio(self) -> str:
    """How many times `a` is what `b` is, or the other way round."""
    if self.a == self.b:
      return "same"
    if not self.a or not self.b:
      return _numbers.NONE
    if self.a > self.b:
      return f"{_numbers.ratio(self.a, self.b)} less"
    return f"{_numbers.ratio(self.b, self.a)} more"


@dataclasses.dataclass(frozen=True)
class Diff:
  """Two cost reports, their totals, and their layers joined by path."""

  names: tuple[str, str]
  models: tuple[str, str]
  totals: Sequence[Total]
  lines: Sequence[Line]
  # In the order of the first report; added ones after what they follow.

  @property
  def changed(self) -> list[Line]:
    """The lines that are not the same."""
    return [line for line in self.lines if line.change != "same"]

  @property
  def counts(self) -> dict[str, int]:
    """How many layers are changed, added, removed and the same."""
    found: dict[str, int] = {}
    found |= dict.fromkeys(("changed", "added", "removed", "same"), 0)
    for line in self.lines:
      found[line.change if line.change in found else "changed"] += 1
    return found

  def to_json(self) -> dict[str, Any]:
    """The totals, the counts, and every layer that is not the same."""
    sides = zip("ab", self.names, self.models, strict=True)
    return {
      **{key: {"name": name, "model": model} for key, name, model in sides},
      "totals": {
        t.name: {
          "title": t.title,
          "unit": t.unit,
          "a": t.a,
          "b": t.b,
          "b_over_a": t.b / t.a if t.a else None,
        }
        for t in self.totals
      },
      "counts": self.counts,
      "layers": [
        {
          "name": line.name,
          "phase": line.phase,
          "change": line.change,
          "a": None if line.a is None else line.a.to_json(),
          "b": None if line.b is None else line.b.to_json(),
        }
        for line in self.changed
      ],
    }


def diff(
  a: Mapping[str, Any], b: Mapping[str, Any], names: tuple[str, str]
) -> Diff:
  """Compares two cost reports (the JSON of `jbin cost`).

  Layers are joined by their path; where one path has several products, in
  their order, those of each phase of a training step apart.

  Args:
    a: what was.
    b: what is now.
    names: what to call them.

  Raises:
    errors.UserError: if a key is missing.
  """
  for cost, name in zip((a, b), names, strict=True):
    _read.check(cost, name, "jbin cost --config=... --format=json")
  return Diff(
    names,
    (str(a["model"]), str(b["model"])),
    list(_totals(a, b)),
    _join(_sides(a), _sides(b)),
  )


def _totals(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Total]:
  """What both have, in the order of the first."""
  mine, theirs = _figures(a), _figures(b)
  for name, (title, unit, n) in mine.items():
    if name in theirs:
      yield Total(name, title, unit, n, theirs[name][2])


def _figures(cost: Mapping[str, Any]) -> dict[str, tuple[str, str, float]]:
  """{name: (title, unit, amount)} of a report."""
  totals: Mapping[str, Any] = cost["totals"]
  params: Mapping[str, Any] = totals.get("params") or {}
  memory: Mapping[str, Any] = cost.get("memory") or {}
  conventions: Mapping[str, Mapping[str, Any]] = cost.get("conventions") or {}
  found = {
    name: (title, unit, totals[name])
    for name, (title, unit) in _TOTALS.items()
    if name in totals
  }
  if "total" in params:
    found["parameters"] = ("parameters", "", params["total"])
  if "total_bytes" in memory:
    found["total_bytes"] = ("all at rest", "bytes", memory["total_bytes"])
  for name, row in conventions.items():
    if name not in found:
      found[name] = (str(row["title"]), str(row["unit"]), row["total"])
  return found


_Key = tuple[str, str, int]
# Path, phase, and which of several products.


def _sides(cost: Mapping[str, Any]) -> dict[_Key, Side]:
  seen: dict[tuple[str, str], int] = {}
  found: dict[_Key, Side] = {}
  for layer in cost["layers"]:
    where = str(layer["name"]), str(layer.get("phase", ""))
    seen[where] = seen.get(where, -1) + 1
    macs, ace, size = _layers.amounts(layer)
    found[(*where, seen[where])] = Side(
      bits=(int(layer["lhs_bits"]), int(layer["rhs_bits"])),
      macs=int(macs),
      ace=int(ace),
      bytes=int(size) if size == int(size) else size,
      kernel=_layers.shape(layer.get("kernel")),
    )
  return found


def _join(a: Mapping[_Key, Side], b: Mapping[_Key, Side]) -> list[Line]:
  """The keys of `a` in their order; each of `b` alone after its neighbour."""
  after: dict[_Key | None, list[_Key]] = {}
  last: _Key | None = None
  for key in b:
    if key in a:
      last = key
    else:
      after.setdefault(last, []).append(key)
  order = list(after.get(None, ()))
  for key in a:
    order += [key, *after.get(key, ())]
  return [Line(key[0], key[1], a.get(key), b.get(key)) for key in order]
