"""The text of a compiled program: its instructions, and how often they run."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Iterator
from typing import Protocol

import numpy as np

_HEAD = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_LINE = re.compile(r"\s*(?:ROOT )?%?([\w.\-]+) = (.+?) ([a-z][\w\-]*)\((.*)$")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,<=]*)\]")
_WIDTH = re.compile(r"[a-z]+(\d+)")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(
  r"(?:calls|to_apply|body|condition|true_computation|false_computation)="
  r"%?([\w.\-]+)|branch_computations=\{([^}]*)\}"
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"?(\d+)"?\}')
_OP_NAME = re.compile(r'op_name="((?:[^"\\]|\\.)*)"')
# These apply a computation to single elements.
_BY_ELEMENT = frozenset(
  (
    "all-reduce",
    "all-reduce-start",
    "map",
    "reduce",
    "reduce-scatter",
    "reduce-window",
    "scatter",
    "select-and-scatter",
    "sort",
  )
)
# These name again what an `async-start` began.
_ENDS = frozenset({"async-update", "async-done"})


def partitions(text: str) -> int:
  """Among how many devices a compiled program is divided."""
  found = re.search(r"\bnum_partitions=(\d+)", text.partition("\n")[0])
  return int(found[1]) if found else 1


class Compiled(Protocol):
  """What `jax.jit(...).lower(...).compile()` gives."""

  def as_text(self) -> str | None: ...


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of a computation."""

  name: str
  opcode: str
  bytes: int
  # Of the result.
  operands: tuple[str, ...]
  rest: str
  # What stands behind the operands.
  called: tuple[str, ...]

  @property
  def op_name(self) -> str:
    """The name stack of the JAX equation that it comes from."""
    found = _OP_NAME.search(self.rest)
    return found[1] if found else ""


@dataclasses.dataclass(frozen=True)
class Run:
  """An instruction as the program runs it."""

  instruction: Instruction
  operand_bytes: int
  times: int
  known: bool
  # Whether `times` has the trips of all the loops around it; one that XLA does
  # not know counts as one trip.
  branch: bool
  # Whether it stands in a branch, which may not be taken.
  fused: bool
  # Whether it is a part of a fusion.


class Program:
  """A compiled module; `text` is that of `compiled.as_text()`."""

  def __init__(self, text: str):
    self.computations: dict[str, dict[str, Instruction]] = {}
    self.entry = ""
    head = text.split("\n", 1)[0]
    self.partitions = _number("num_partitions", head)
    self.replicas = _number("replica_count", head)
    lines: dict[str, Instruction] = {}
    for line in text.splitlines():
      if not line.startswith(" ") and (found := _HEAD.match(line)):
        lines = self.computations[found[2]] = {}
        self.entry = found[2] if found[1] else self.entry
      elif found := _LINE.match(line):
        lines[found[1]] = _instruction(*found.groups())

  def runs(self) -> Iterator[Run]:
    """Every instruction that the entry reaches, calls and loops followed."""
    yield from self._runs(self.entry, 1, True, False, False)

  def _runs(
    self, name: str, times: int, known: bool, branch: bool, fused: bool
  ) -> Iterator[Run]:
    lines = self.computations.get(name, {})
    for line in lines.values():
      read = sum(lines[o].bytes for o in line.operands if o in lines)
      yield Run(line, read, times, known, branch, fused)
      if line.opcode in _BY_ELEMENT or line.opcode in _ENDS:
        continue
      trips, sure = 1, known
      if line.opcode == "while":
        found = _TRIPS.search(line.rest)
        trips, sure = (int(found[1]) if found else 1), known and bool(found)
      maybe = branch or line.opcode == "conditional"
      inside = fused or line.opcode == "fusion"
      for called in line.called:
        yield from self._runs(called, times * trips, sure, maybe, inside)


def _instruction(name: str, kind: str, opcode: str, tail: str) -> Instruction:
  operands, rest = _split(tail)
  called: list[str] = []
  for one, several in _CALLED.findall(rest):
    called += [one] if one else _NAME.findall(several)
  return Instruction(
    name=name,
    opcode=opcode,
    bytes=size(kind),
    operands=tuple(_NAME.findall(operands)),
    rest=rest,
    called=tuple(called),
  )


def _split(tail: str) -> tuple[str, str]:
  """Operands and attributes: `tail` begins behind an open parenthesis."""
  depth = 1
  for i, letter in enumerate(tail):
    depth += (letter == "(") - (letter == ")")
    if not depth:
      return tail[:i], tail[i + 1 :]
  return tail, ""


def size(kind: str) -> int:
  """Bytes of a type as HLO writes it; a tuple is the sum of its parts."""
  bits = 0
  for dtype, dims in _ARRAY.findall(kind):
    width = _WIDTH.match(dtype)
    wide = 8 if dtype == "pred" else int(width[1]) if width else 0
    for n in filter(None, dims.replace("<=", "").split(",")):
      wide *= int(n)
    bits += wide
  return -(-bits // 8)


def _number(key: str, head: str) -> int:
  found = re.search(rf"{key}=(\d+)", head)
  return int(found[1]) if found else 1


# --- Groups of devices --------------------------------------------------------

Groups = list[list[int]]
_LISTED = re.compile(r"replica_groups=\{(\{[\d,{} ]*\})?\}")
_IOTA = re.compile(
  r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?"
)
_MESH = re.compile(
  r"replica_groups=(?:@\w+)?mesh\[([^\]]*)\]"
  r"(?:, ?device_ids=\((?:\[([\d,]+)\](?:<=\[([\d,]+)\])?)?"
  r"(?:T\(([\d,]+)\))?\))? ?\{([^}]*)\}"
)
_AXIS = re.compile(r"'([^']+)'(?:=(\d+)|:\((\d+)\)(\d+))?")
_PAIRS = re.compile(r"source_target_pairs=\{([\d,{} ]*)\}")


def groups(rest: str, devices: int) -> Groups | None:
  """The groups of devices that a collective works in; None: not understood.

  Three forms are read: lists (`{{0,1},{2,3}}`), a reshaped and transposed range
  (`[2,4]<=[4,2]T(1,0)`), and axes of a mesh (`mesh['a'=2,'b'=4] {'b'}`).
  """
  if found := _MESH.search(rest):
    return _of_mesh(found, devices)
  if found := _IOTA.search(rest):
    shape, dims, order = map(_ints, found.groups())
    ids = np.arange(int(np.prod(dims))).reshape(dims)
    return ids.transpose(order or None).reshape(shape).tolist()
  if found := _LISTED.search(rest):
    listed = re.findall(r"\{([\d, ]+)\}", found[1] or "")
    return [_ints(each) for each in listed] or [list(range(devices))]
  return None


def pairs(rest: str) -> list[tuple[int, int]]:
  """The (source, target) devices of a collective-permute."""
  found = _PAIRS.search(rest)
  each = re.findall(r"\{(\d+), ?(\d+)\}", found[1]) if found else []
  return [(int(a), int(b)) for a, b in each]


def _of_mesh(found: re.Match[str], devices: int) -> Groups | None:
  """Groups along axes of a mesh, or along parts of axes."""
  axes = {name: int(n) for name, n, *_ in _AXIS.findall(found[1]) if n}
  dims = list(axes.values())
  if int(np.prod(dims)) != devices:
    return None
  ids = np.arange(devices)
  if found[2]:
    shape = _ints(found[3]) or _ints(found[2])
    ids = ids.reshape(shape).transpose(_ints(found[4]) or None)
  ids = ids.reshape(dims)
  # Each axis is cut in (before, taken, after); a group runs over what is taken.
  cuts = {name: (1, 1, n) for name, n in axes.items()}
  for name, _, before, taken in _AXIS.findall(found[5]):
    if name not in axes:
      return None
    n = axes[name]
    low, own = (int(before), int(taken)) if taken else (1, n)
    cuts[name] = (low, own, n // (low * own))
  ids = ids.reshape(list(itertools.chain.from_iterable(cuts.values())))
  last = range(1, 3 * len(dims), 3)
  ids = np.moveaxis(ids, tuple(last), tuple(range(-len(dims), 0)))
  n = functools.reduce(lambda a, cut: a * cut[1], cuts.values(), 1)
  return ids.reshape(-1, n).tolist()


def _ints(text: str | None) -> list[int]:
  return [int(n) for n in re.findall(r"\d+", text or "")]
