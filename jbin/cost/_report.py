"""The report: totals by convention, layer by layer, and what is left out."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from jbin.cost import (
  _chips,
  _conventions,
  _energy,
  _explain,
  _format,
  _left_out,
  _memory,
  _peak,
  _phases,
  _roofline,
  _sections,
)
from jbin.cost._record import (
  CONTRACTED,
  Branches,
  Collective,
  Lookup,
  NotCounted,
  Record,
  Uses,
)
from jbin.cost._trace import KINDS, Parameter, State

Price = Callable[[Record], float]


@dataclasses.dataclass(frozen=True, repr=False)
class Report:
  """What one program costs; `count` makes it.

  `str(report)` is a summary, `to_table()` the whole. Figures are exact
  integers wherever the convention gives integers.
  """

  model: str
  inputs: list[tuple[int, ...]]
  # Shapes of the data, without the batch axis.
  layers: list[Record]
  # In the order of execution.
  parameters: dict[str, Parameter]
  # By path.
  batch_stats: int
  # Running values of batch norms, which are no parameters.
  elementwise: dict[str, int]
  # Scalar operations by the name of their mark, in program order.
  elementwise_by_primitive: dict[str, int]
  # Scalar operations of floats on activations by primitive, marked or not.
  on_parameters: int
  # The same on parameters alone: quantizing them, which can be done ahead.
  by_phase: dict[str, int]
  # The element-wise operations of each phase, those on parameters too.
  branches: list[Branches]
  # Of each `cond` whose branches differ.
  lookups: list[Lookup]
  # Rows read from parameters.
  collectives: list[Collective]
  # Transfers that the program asks for; those that XLA adds are not here.
  states: dict[str, State]
  # Caches and recurrent states, by path.
  activations: _peak.Activations
  # The most at once of what depends on the data.
  not_counted: list[NotCounted]
  notes: list[str]
  integers_by_primitive: dict[str, int] = dataclasses.field(
    default_factory=dict
  )
  # Scalar operations between integers or truth values on activations.
  uses: Uses = dataclasses.field(default_factory=Uses)
  # The widest of each parameter, also in branches and loops not counted.
  batch: int | None = None
  # The leading size of the data; None if its inputs differ in it.
  batch_stats_bits: int = 0
  # Of all of them together.
  training: _phases.Training | None = None
  # Peak memory and transfers, if `training` made the report.

  def total(self, convention: str | Price) -> float:
    """The cost under a convention, by its name or as a function of a record.

    Raises:
      errors.UnknownName: if no convention has that name.
    """
    return _conventions.sum_of(_left_out.find(convention), self.layers)

  def total_by(
    self, convention: str | Price, key: Callable[[Record], Any]
  ) -> dict[Any, float]:
    """The cost under a convention, split by any function of a record.

    `report.total_by("larq_macs", cost.larq_precision)` is Larq's table.
    """
    price = _left_out.find(convention)
    groups: dict[Any, list[Record]] = {}
    for record in self.layers:
      groups.setdefault(key(record), []).append(record)
    return {k: _conventions.sum_of(price, rs) for k, rs in groups.items()}

  def left_out(self, convention: str | Price | None = None) -> dict[str, float]:
    """What a convention does not count, with amounts; None: what none does."""
    return _left_out.amounts(self, convention)

  def statement(self, convention: str | Price) -> str:
    """A total with its unit, and what it leaves out with amounts, as text."""
    return _left_out.statement(self, convention)

  def phases(self) -> dict[str, dict[str, Any]]:
    """{phase: {"macs" by bit pair, "ace", "elementwise"}} of a training step.

    Phases are forward, recompute (what remat runs once more), backward and
    update, as far as the program has them.
    """
    return _phases.phases(self)

  def operations(self) -> _energy.Operations:
    """Scalar multiplications and additions of the products, by their dtype."""
    return _energy.operations(self)

  def memory(self) -> _memory.Memory:
    """Bytes of weights, embeddings, other parameters and states."""
    return _memory.memory(self)

  def roofline(self, chip: str | _chips.Chip) -> _roofline.Roofline:
    """The least time of each product on a chip: `tpu_v5e`, or one of your own.

    Raises:
      errors.UnknownName: if no chip has that name.
    """
    return _roofline.roofline(self, chip)

  @property
  def is_training(self) -> bool:
    """Whether the program does more than a forward pass."""
    return _phases.is_training(self)

  @property
  def counted_for(self) -> str:
    """Of what all figures are: "one example", "a batch of 64"."""
    if self.is_training:
      of = "" if self.batch is None else f" of {self.batch:,}"
      return f"one training step{of}"
    if self.batch == 1:
      return "one example"
    return "one call" if self.batch is None else f"a batch of {self.batch:,}"

  @property
  def ace(self) -> int:
    """Arithmetic computation effort: the sum of macs * bits * bits."""
    return sum(record.ace for record in self.layers)

  @property
  def ace_strict(self) -> int:
    """ACE, as float where a scale along the contraction forbids integers."""
    return int(self.total(_conventions.ace_strict))

  @functools.cached_property
  def macs(self) -> dict[tuple[int, int], int]:
    """Multiply-accumulates by (activation bits, weight bits)."""
    found: dict[tuple[int, int], int] = {}
    for record in self.layers:
      pair = (record.lhs_bits, record.rhs_bits)
      found[pair] = found.get(pair, 0) + record.macs
    return found

  @functools.cached_property
  def weights_by_bits(self) -> dict[int, int]:
    """Number of weights by bits; each parameter once, at its widest use.

    None is wider than the dtype in which it is stored.
    """
    found: dict[int, int] = {}
    for path, n in _memory.widths(self).items():
      found[n] = found.get(n, 0) + self.parameters[path].size
    return found

  @property
  def weight_bits(self) -> int:
    """Bits to store the weights of all products."""
    return sum(bits * n for bits, n in self.weights_by_bits.items())

  @property
  def weight_bytes(self) -> float:
    """`weight_bits / 8`, an int if it is whole."""
    whole, rest = divmod(self.weight_bits, 8)
    return self.weight_bits / 8 if rest else whole

  @property
  def params(self) -> dict[str, int]:
    """Number of parameters: total, and kernel, bias, bn, dprelu, other."""
    found: dict[str, int] = dict.fromkeys(("total", *KINDS), 0)
    for parameter in self.parameters.values():
      found["total"] += parameter.size
      found[parameter.kind] += parameter.size
    return found

  @property
  def flagged(self) -> list[str]:
    """Layers whose codes have a scale that varies along a contracted axis.

    `ace` and `ace_strict` differ on these.
    """
    return [r.name for r in self.layers if CONTRACTED in r.flags]

  def to_json(self) -> dict[str, Any]:
    """The report as JSON values, with the keys of the published cost tables.

    Keys: model, input, totals, elementwise_scalar_ops, layers; beyond them
    flagged, elementwise_by_primitive, integers_by_primitive, batch
    (the leading size of the data), counted_for ("a batch of 64"), left_out,
    not_counted, notes, conventions, operations, memory, roofline, branches,
    lookups and collectives; training if it is one.
    """
    return {
      "model": self.model,
      "input": _format.shapes(self.inputs),
      "totals": self._totals(),
      "elementwise_scalar_ops": {
        name if name.endswith("_sops") else f"{name}_sops": n
        for name, n in self.elementwise.items()
      },
      "layers": _format.layers(self),
      "flagged": self.flagged,
      "elementwise_by_primitive": self.elementwise_by_primitive,
      "integers_by_primitive": self.integers_by_primitive,
      "batch": self.batch,
      "counted_for": self.counted_for,
      "left_out": self.left_out(),
      "not_counted": [row.to_json() for row in self.not_counted],
      "notes": self.notes,
      "conventions": _left_out.to_json(self),
      "operations": self.operations().to_json(),
      "memory": self.memory().to_json(),
      "roofline": _roofline.to_json(self),
      **_sections.to_json(self),
      **({"training": _phases.to_json(self)} if self.is_training else {}),
    }

  def _totals(self) -> dict[str, Any]:
    dense = sum(r.ace for r in self.layers if r.kind == "dense")
    conv = sum(r.ace for r in self.layers if r.kind.startswith("conv"))
    params = self.params
    if not params["other"]:
      del params["other"]
    return {
      "ace": self.ace,
      "ace_strict": self.ace_strict,
      "macs": sum(self.macs.values()),
      "macs_by_bit_pair": {f"{i}x{j}": n for (i, j), n in self.macs.items()},
      "weights_by_bits": {str(b): n for b, n in self.weights_by_bits.items()},
      "weight_bits": self.weight_bits,
      "weight_bytes": self.weight_bytes,
      "cpu64_binary_64th_rest_1": self.total("cpu64_binary_64th_rest_1"),
      "cpu64_maxbits_64": self.total("cpu64_maxbits_64"),
      "params": params,
      "batch_stats": self.batch_stats,
      "conv_ace": conv,
      "dense_ace": dense,
    }

  def explain(self, path: str = "") -> str:
    """Why the operands of a layer's products have the bits they have.

    For each product at the path, or below it, and for each of its operands:
    the equations from the input, the parameter or the product before, through
    the tag, to this product, each with shape, dtype, bits and what it does to
    them; runs of operations without a tag share a line. Then what is to say
    about scales.

    Args:
      path: a layer's name or the beginning of one ("blocks/0"); "" is all.

    Raises:
      errors.UnknownName: if no product is there; the message has near names.
    """
    return _explain.explain(self.layers, path)

  def to_table(self, width: int | None = None) -> str:
    """Totals and every layer as aligned text.

    Args:
      width: characters of a line; by default that of the terminal.
    """
    return _format.table(self, width)

  def to_csv(self) -> str:
    """One line for each layer, with a header."""
    return _format.csv_text(self)

  def to_markdown(self) -> str:
    """Totals and layers as Markdown tables."""
    return _format.markdown(self)

  def __str__(self) -> str:
    return _format.summary(self)

  __repr__ = __str__
