"""What differs between two cost reports, layer by layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jbin import errors
from jbin.report import _check, _layers, _numbers, _read

# What is compared where no report has the key "conventions".
_TOTALS = {
  "ace": ("ACE", ""),
  "ace_strict": ("ACE, strict", ""),
  "macs": ("MACs", ""),
  "cpu64_binary_64th_rest_1": ("CPU64, binary/64", "OPs"),
  "cpu64_maxbits_64": ("CPU64, max(bits)/64", "OPs"),
  "weight_bytes": ("weights", "bytes"),
}
_ACTIVATIONS = {
  "activations_bytes": "activations at peak",
  "activations_tagged_bytes": "activations packed to their bits",
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
      "kernel": self.kernel.replace("×", "x"),
    }


@dataclasses.dataclass(frozen=True)
class Line:
  """A layer that either report has; `a` or `b` is None where it has not."""

  name: str
  phase: str
  a: Side | None
  b: Side | None
  gradient: str = ""
  # Of a backward product: "dkernel", "dx".

  @property
  def part(self) -> str:
    """The phase, and of what it makes the gradient: "backward, dkernel"."""
    return ", ".join(filter(None, (self.phase, self.gradient)))

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
  free: tuple[int, int] = (0, 0)
  # MACs of each side that it prices 0.

  @property
  def shown_unit(self) -> str:
    """The unit, unless the title has it."""
    return "" if self.unit.lower() in self.title.lower() else self.unit

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
  counted_for: tuple[str, str] = ("one example", "one example")
  not_counted: tuple[Sequence[Mapping[str, Any]], ...] = ((), ())
  # Of each side: what may hide products. No figure has it.

  @property
  def uncounted(self) -> list[tuple[str, Mapping[str, Any]]]:
    """What is not counted, and where: "A", "B" or "A and B"."""
    a, b = self.not_counted
    found = [("A and B" if row in b else "A", row) for row in a]
    return found + [("B", row) for row in b if row not in a]

  @property
  def unpriced(self) -> list[tuple[str, list[str]]]:
    """Which MACs are priced 0, and by which totals."""
    found: dict[str, list[str]] = {}
    for total in self.totals:
      sides = zip("AB", total.free, strict=True)
      said = [f"{_numbers.exact(n)} MACs of {side}" for side, n in sides if n]
      if said:
        found.setdefault(" and ".join(said), []).append(total.title)
    return list(found.items())

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
    sides = zip(
      "ab",
      self.names,
      self.models,
      self.counted_for,
      self.not_counted,
      strict=True,
    )
    return {
      **{
        key: {
          "name": name,
          "model": model,
          "counted_for": what,
          "not_counted": [dict(row) for row in rows],
        }
        for key, name, model, what, rows in sides
      },
      "totals": {
        t.name: {
          "title": t.title,
          "unit": t.unit,
          "a": t.a,
          "b": t.b,
          "b_over_a": t.b / t.a if t.a else None,
          "macs_priced_0": {"a": t.free[0], "b": t.free[1]},
        }
        for t in self.totals
      },
      "counts": self.counts,
      "layers": [
        {
          "name": line.name,
          "phase": line.phase,
          "gradient": line.gradient,
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
  their order, those of each phase of a training step and of each gradient
  apart.

  Args:
    a: what was.
    b: what is now.
    names: what to call them.

  Raises:
    errors.UserError: if a key is missing or holds what it cannot, or if one
      is of a training step and the other is not.
  """
  for cost, name in zip((a, b), names, strict=True):
    _check.check(cost, name, "jbin cost --config=... --format=json")
  if bool(a.get("training")) != bool(b.get("training")):
    whole, alone = names if a.get("training") else names[::-1]
    raise errors.UserError(
      f"{whole} is a whole training step and {alone} is not; compare two of a"
      " kind: jbin cost --config=... --training --format=json counts a step"
    )
  return Diff(
    names,
    (str(a["model"]), str(b["model"])),
    list(_totals(a, b)),
    _join(_sides(a), _sides(b)),
    (_read.counted_for(a), _read.counted_for(b)),
    (_hidden(a), _hidden(b)),
  )


def _hidden(cost: Mapping[str, Any]) -> list[Mapping[str, Any]]:
  """What is not counted, without what holds no products."""
  rows: Sequence[Mapping[str, Any]] = cost.get("not_counted") or ()
  return [row for row in rows if row.get("matrix_like") is not False]


def _totals(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Total]:
  """What both have, in the order of the first."""
  mine, theirs = _figures(a), _figures(b)
  for name, (title, unit, n) in mine.items():
    if name in theirs:
      free = _free(a, name), _free(b, name)
      yield Total(name, title, unit, n, theirs[name][2], free)


def _free(cost: Mapping[str, Any], name: str) -> int:
  """The MACs that a convention prices 0."""
  conventions: Mapping[str, Mapping[str, Any]] = cost.get("conventions") or {}
  return int(conventions.get(name, {}).get("macs_priced_0") or 0)


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
  for name, title in _ACTIVATIONS.items():
    if name in memory:
      found[name] = (title, "bytes", memory[name])
  for name, row in conventions.items():
    if name not in found:
      found[name] = (str(row["title"]), str(row["unit"]), row["total"])
  return found


_Key = tuple[str, str, str, int]
# Path, phase, gradient, and which of several products.


def _sides(cost: Mapping[str, Any]) -> dict[_Key, Side]:
  seen: dict[tuple[str, str, str], int] = {}
  found: dict[_Key, Side] = {}
  for layer in cost["layers"]:
    phase, gradient = str(layer.get("phase", "")), _layers.gradient(layer)
    where = str(layer["name"]), phase, gradient
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
  return [Line(key[0], key[1], a.get(key), b.get(key), key[2]) for key in order]
