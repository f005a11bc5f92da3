"""The report: totals by convention, layer by layer, and what is left out."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from jbin.cost import _conventions, _format
from jbin.cost._record import (
  CONTRACTED,
  Branches,
  Collective,
  Lookup,
  NotCounted,
  Record,
)
from jbin.cost._trace import KINDS, Parameter, State

Convention = Callable[[Record], float]


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
  # Scalar operations on activations by primitive, marked or not.
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
  not_counted: list[NotCounted]
  notes: list[str]

  def total(self, convention: str | Convention) -> float:
    """The cost under a convention, by its name or as a function of a record.

    Raises:
      errors.UnknownName: if no convention has that name.
    """
    if isinstance(convention, str):
      convention = _conventions.REGISTRY.get(convention)
    return sum(convention(record) for record in self.layers)

  @property
  def ace(self) -> int:
    """Arithmetic computation effort: the sum of macs * bits * bits."""
    return sum(record.ace for record in self.layers)

  @property
  def ace_strict(self) -> int:
    """ACE, as float where a scale along the contraction forbids integers."""
    return sum(_conventions.ace_strict(record) for record in self.layers)

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
    """Number of weights by bits; each parameter once, at its widest use."""
    width: dict[str, int] = {}
    for record in self.layers:
      for path, n in zip(record.params, record.param_bits, strict=True):
        width[path] = max(n, width.get(path, 0))
    found: dict[int, int] = {}
    for path, n in width.items():
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

  @property
  def left_out(self) -> dict[str, int]:
    """What no convention on products counts, with amounts."""
    weights = sum(self.weights_by_bits.values())
    return {
      "marked element-wise operations": sum(self.elementwise.values()),
      "element-wise operations on activations, marked or not": sum(
        self.elementwise_by_primitive.values()
      ),
      "scalar operations on parameters alone": self.on_parameters,
      "parameters outside products": self.params["total"] - weights,
      "primitives not counted": len(self.not_counted),
    }

  def to_json(self) -> dict[str, Any]:
    """The report as JSON values, with the keys of the published cost tables.

    Keys: model, input, totals, elementwise_scalar_ops, layers; beyond them
    flagged, elementwise_by_primitive, left_out, not_counted and notes.
    """
    return {
      "model": self.model,
      "input": _format.shapes(self.inputs),
      "totals": self._totals(),
      "elementwise_scalar_ops": {
        name if name.endswith("_sops") else f"{name}_sops": n
        for name, n in self.elementwise.items()
      },
      "layers": [_format.layer(record) for record in self.layers],
      "flagged": self.flagged,
      "elementwise_by_primitive": self.elementwise_by_primitive,
      "left_out": self.left_out,
      "not_counted": [row.to_json() for row in self.not_counted],
      "notes": self.notes,
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
