"""What the counter writes down: a product, or what it could not count."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any, TypeVar

from jbin.cost._values import Shape, Step

CONTRACTED = "scale_along_contraction"
FOLDED = "scale_folds_into_float"
GROUPED = "scale_by_groups"
# What an equation is there for, in the order of a training step.
PHASES = ("forward", "recompute", "backward", "update")
# The name scope that says so of an update: `jax.named_scope(UPDATE)`.
UPDATE = "jbin.update"


@dataclasses.dataclass(frozen=True)
class Operand:
  """One side of a product."""

  bits: int
  # Width by tag, or by dtype if there is no tag.
  dtype_bits: int
  # Width of the dtype that the product reads.
  tagged: bool
  is_float: bool
  # Untagged, and of a floating dtype.
  size: int = 0
  # Elements that one trip reads, on all devices together.
  runs: int = 1
  # Runs of the contraction on which the scale of tagged codes is constant; 0:
  # each element has its own.
  dtype: str = ""
  # That the product reads; codes may come in a wider one.
  step: Step | None = dataclasses.field(default=None, compare=False, repr=False)
  # How the operand came about.


@dataclasses.dataclass(frozen=True)
class Record:
  """One product of the program; `lhs` is the activation, `rhs` the weight."""

  name: str
  # Path of the layer ("blocks/0/conv1"), or a place in the program.
  kind: str
  # conv, conv_grouped, dense (by a weight) or matmul (of two activations).
  in_shape: Shape
  # Channels last, without the batch axis; so is out_shape.
  out_shape: Shape
  kernel: Shape
  # Spatial axes, input channels of one group, output channels.
  strides: Shape | None
  padding: str | list[list[int]] | None
  # SAME, VALID or [[low, high], ...]; None without windows.
  groups: int
  bias: bool
  # Whether the layer has a parameter of that name.
  macs: int
  lhs: Operand
  rhs: Operand
  weights: int
  # Elements of the weight; 0 for a matmul.
  primitive: str
  params: tuple[str, ...] = ()
  # Paths of the parameters behind the weight (of both sides, if both are).
  param_bits: tuple[int, ...] = ()
  repeats: int = 1
  # Trips of the loops around it; `macs` is for all of them.
  outputs: int = 0
  # Elements of the result of one trip, on all devices together.
  output_bits: int = 32
  # Width of the dtype of the result.
  phase: str = "forward"
  devices: int = 1
  # How many share the `macs` between them: each does `macs / devices`.
  padded: int = 0
  # Of the `macs`, those whose input is padding.
  gradient_of: str = ""
  # Path of the parameter whose gradient a backward product makes.
  number: int = dataclasses.field(default=0, compare=False, repr=False)
  # Of the product in the walk.

  @property
  def lhs_bits(self) -> int:
    """Bits of an element of the activation."""
    return self.lhs.bits

  @property
  def rhs_bits(self) -> int:
    """Bits of an element of the weight, or of the second activation."""
    return self.rhs.bits

  @property
  def ace(self) -> int:
    """Arithmetic computation effort: macs * lhs_bits * rhs_bits."""
    return self.macs * self.lhs_bits * self.rhs_bits

  @property
  def flags(self) -> tuple[str, ...]:
    """What a reader of the bits should know.

    `scale_along_contraction`: the codes' scale varies along a contracted axis,
    so no integer product computes this. `scale_by_groups`: it does, but is
    constant on runs, and integers compute the product of each run.
    `scale_folds_into_float`: the other operand is float and can take the scale.
    """
    found = []
    for side, other in ((self.lhs, self.rhs), (self.rhs, self.lhs)):
      if side.tagged and side.runs != 1:
        held = GROUPED if side.runs else CONTRACTED
        found.append(FOLDED if other.is_float else held)
    return tuple(dict.fromkeys(found))

  @property
  def partials(self) -> int:
    """Multiply-accumulates of floats that put the runs of a scale together."""
    if GROUPED not in self.flags or CONTRACTED in self.flags:
      return 0
    runs = max(s.runs for s in (self.lhs, self.rhs))
    return runs * self.outputs * self.repeats

  @property
  def float_bits(self) -> int:
    """Width of the floats that the scaled codes are."""
    scaled = [s.dtype_bits for s in (self.lhs, self.rhs) if s.runs != 1]
    return max(scaled or [self.output_bits])

  @property
  def strict_bits(self) -> tuple[int, int]:
    """(lhs, rhs) bits, both those of the float dtype if the scale forces it."""
    if CONTRACTED not in self.flags:
      return self.lhs_bits, self.rhs_bits
    return self.float_bits, self.float_bits

  def times(self, trips: int, devices: int = 1) -> Record:
    """The record of a loop's body, or a device's, as the whole counts."""
    sides = (self.lhs, self.rhs)
    lhs, rhs = (dataclasses.replace(s, size=s.size * devices) for s in sides)
    return dataclasses.replace(
      self,
      macs=self.macs * trips * devices,
      lhs=lhs,
      rhs=rhs,
      padded=self.padded * trips * devices,
      outputs=self.outputs * devices,
      repeats=self.repeats * trips,
      devices=self.devices * devices,
    )


@dataclasses.dataclass(frozen=True)
class Branches:
  """A `cond`: what each branch costs, and which one is counted."""

  where: str
  # The name stack, "" at the top.
  ace: tuple[int, ...]
  # Of each branch; so are `macs`.
  macs: tuple[int, ...]
  counted: int
  # Position of the branch that is in the totals: that of most ACE.
  repeats: int = 1
  # Trips of the loops around it.


@dataclasses.dataclass(frozen=True)
class Lookup:
  """Rows taken from a parameter: an embedding."""

  path: str
  # Of the parameter.
  elements: int
  # That are read, in all trips.
  bits: int
  # Of an element, by tag or by dtype.


@dataclasses.dataclass(frozen=True)
class Collective:
  """A transfer between devices that the program itself asks for."""

  primitive: str
  axes: tuple[str, ...]
  # Of the mesh.
  where: str
  # The name stack, "" at the top.
  bytes: int
  # That each device gives, in one trip.
  phase: str = "forward"
  repeats: int = 1
  # Trips of the loops around it.


@dataclasses.dataclass(frozen=True)
class NotCounted:
  """A primitive whose cost is not in the totals.

  `matrix_like`: it may hide products; else it is listed with its elements.
  """

  primitive: str
  where: str
  # The name stack, "" at the top.
  shapes: tuple[Shape, ...]
  # Of the operands.
  reason: str
  matrix_like: bool = True
  repeats: int = 1
  macs_per_trip: int | None = None
  # For a `while`: the MACs of its body.

  @property
  def elements(self) -> int:
    """Elements of the largest operand, in all trips."""
    return self.repeats * max(map(math.prod, self.shapes), default=0)

  def to_json(self) -> dict[str, Any]:
    """The fields as JSON values, and the elements."""
    row = dataclasses.asdict(self) | {"elements": self.elements}
    row["shapes"] = [list(shape) for shape in self.shapes]
    if self.macs_per_trip is None:
      del row["macs_per_trip"]
    return row


@dataclasses.dataclass
class Uses:
  """The bits of parameters at their widest use, by path."""

  multiplied: dict[str, int] = dataclasses.field(default_factory=dict)
  # In products.
  read: dict[str, int] = dataclasses.field(default_factory=dict)
  # By look-ups.

  def add(self, other: Uses) -> None:
    """Adds the uses of another stretch."""
    self.multiplied = widest(
      (*self.multiplied.items(), *other.multiplied.items())
    )
    self.read = widest((*self.read.items(), *other.read.items()))


def widest(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
  """The most bits of each path."""
  found: dict[str, int] = {}
  for path, bits in pairs:
    found[path] = max(bits, found.get(path, 0))
  return found


@dataclasses.dataclass
class Tally:
  """Everything counted in one stretch of the program."""

  records: list[Record] = dataclasses.field(default_factory=list)
  marks: dict[str, int] = dataclasses.field(default_factory=dict)
  # Scalar operations by the name of their mark, in program order.
  elementwise: dict[str, int] = dataclasses.field(default_factory=dict)
  # Scalar operations on activations by primitive, marked or not.
  integers: dict[str, int] = dataclasses.field(default_factory=dict)
  # The same between integers or truth values.
  on_weights: int = 0
  # Scalar operations on parameters alone (they can be done ahead); a
  # multiply-accumulate is two.
  phases: dict[str, int] = dataclasses.field(default_factory=dict)
  # The element-wise operations by phase, those on parameters too.
  not_counted: list[NotCounted] = dataclasses.field(default_factory=list)
  branches: list[Branches] = dataclasses.field(default_factory=list)
  lookups: list[Lookup] = dataclasses.field(default_factory=list)
  collectives: list[Collective] = dataclasses.field(default_factory=list)
  packed: dict[str, int] = dataclasses.field(default_factory=dict)
  # Bits of an element of the parameters that hold several in a word, by path.
  notes: list[str] = dataclasses.field(default_factory=list)
  elsewhere: Uses = dataclasses.field(default_factory=Uses)
  # Of parameters, in branches and loops that are not counted.

  def add(self, other: Tally, trips: int = 1, devices: int = 1) -> None:
    """Adds another stretch, `trips` times, as `devices` do it together."""
    n = trips * devices
    self.records += [
      r if n == 1 else r.times(trips, devices) for r in other.records
    ]
    for mine, theirs in (
      (self.marks, other.marks),
      (self.elementwise, other.elementwise),
      (self.integers, other.integers),
      (self.phases, other.phases),
    ):
      for name, amount in theirs.items():
        mine[name] = mine.get(name, 0) + amount * n
    self.on_weights += other.on_weights * n
    self.lookups += [
      dataclasses.replace(look, elements=look.elements * n)
      for look in other.lookups
    ]
    self.not_counted += _repeated(other.not_counted, n)
    self.branches += _repeated(other.branches, n)
    # Their bytes are those of each device.
    self.collectives += _repeated(other.collectives, trips)
    self.packed |= other.packed
    self.elsewhere.add(other.elsewhere)
    self.notes += [note for note in other.notes if note not in self.notes]

  def keep(self, other: Tally) -> None:
    """Takes the parameters of a stretch that is not counted, and notes."""
    self.elsewhere.add(other.elsewhere)
    self.elsewhere.add(
      Uses(
        multiplied=widest(
          pair
          for r in other.records
          for pair in zip(r.params, r.param_bits, strict=True)
        ),
        read=widest((look.path, look.bits) for look in other.lookups),
      )
    )
    self.packed |= other.packed
    self.notes += [note for note in other.notes if note not in self.notes]

  @property
  def ace(self) -> int:
    """The sum of the records' ACE."""
    return sum(record.ace for record in self.records)

  @property
  def macs(self) -> int:
    """The sum of the records' MACs."""
    return sum(record.macs for record in self.records)


_Row = TypeVar("_Row", NotCounted, Branches, Collective)


def _repeated(rows: list[_Row], n: int) -> list[_Row]:
  return [dataclasses.replace(row, repeats=row.repeats * n) for row in rows]
