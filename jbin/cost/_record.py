"""What the counter writes down: a product, or what it could not count."""

from __future__ import annotations

import dataclasses
from typing import Any

from jbin.cost._values import Shape

CONTRACTED = "scale_along_contraction"
FOLDED = "scale_folds_into_float"


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
  scaled: bool
  # Tagged, with a scale that varies along a contracted axis.


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
    so no integer product computes this. `scale_folds_into_float`: it does, but
    the other operand is float and can take the scale.
    """
    found = []
    for side, other in ((self.lhs, self.rhs), (self.rhs, self.lhs)):
      if side.scaled:
        found.append(FOLDED if other.is_float else CONTRACTED)
    return tuple(dict.fromkeys(found))

  @property
  def strict_bits(self) -> tuple[int, int]:
    """(lhs, rhs) bits, both those of the float dtype if the scale forces it."""
    if CONTRACTED not in self.flags:
      return self.lhs_bits, self.rhs_bits
    wide = max(s.dtype_bits for s in (self.lhs, self.rhs) if s.scaled)
    return wide, wide

  def times(self, trips: int) -> Record:
    """The record of a loop's body as the whole loop counts."""
    return dataclasses.replace(
      self, macs=self.macs * trips, repeats=self.repeats * trips
    )


@dataclasses.dataclass(frozen=True)
class NotCounted:
  """A primitive whose cost is not in the totals."""

  primitive: str
  where: str
  # The name stack, "" at the top.
  shapes: tuple[Shape, ...]
  # Of the operands.
  reason: str
  repeats: int = 1
  macs_per_trip: int | None = None
  # For a `while`: the MACs of its body.

  def to_json(self) -> dict[str, Any]:
    """The fields as JSON values."""
    row = dataclasses.asdict(self)
    row["shapes"] = [list(shape) for shape in self.shapes]
    if self.macs_per_trip is None:
      del row["macs_per_trip"]
    return row


@dataclasses.dataclass
class Tally:
  """Everything counted in one stretch of the program."""

  records: list[Record] = dataclasses.field(default_factory=list)
  marks: dict[str, int] = dataclasses.field(default_factory=dict)
  # Scalar operations by the name of their mark, in program order.
  elementwise: dict[str, int] = dataclasses.field(default_factory=dict)
  # Scalar operations on activations by primitive, marked or not.
  on_weights: int = 0
  # Scalar operations on parameters alone (they can be done ahead); a
  # multiply-accumulate is two.
  not_counted: list[NotCounted] = dataclasses.field(default_factory=list)
  notes: list[str] = dataclasses.field(default_factory=list)

  def add(self, other: Tally, trips: int = 1) -> None:
    """Adds another stretch, `trips` times."""
    self.records += [r.times(trips) if trips != 1 else r for r in other.records]
    for mine, theirs in (
      (self.marks, other.marks),
      (self.elementwise, other.elementwise),
    ):
      for name, n in theirs.items():
        mine[name] = mine.get(name, 0) + n * trips
    self.on_weights += other.on_weights * trips
    self.not_counted += [
      dataclasses.replace(n, repeats=n.repeats * trips)
      for n in other.not_counted
    ]
    self.notes += [note for note in other.notes if note not in self.notes]

  @property
  def ace(self) -> int:
    """The sum of the records' ACE."""
    return sum(record.ace for record in self.records)

  @property
  def macs(self) -> int:
    """The sum of the records' MACs."""
    return sum(record.macs for record in self.records)
