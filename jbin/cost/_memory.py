"""What a model holds in memory: each parameter once, at its width."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from jbin.cost._report import Report

LEAVES_OUT = (
  "what is computed from weights alone and not stored, as their scales, and the"
  " padding of packed words"
)


@dataclasses.dataclass(frozen=True)
class Memory:
  """Bytes of a model at rest, and of its activations at their peak.

  A weight of a product counts at the bits of its widest use (its tag, or the
  dtype that the product reads), a looked-up table at the bits in which it is
  read, neither wider than the dtype in which it is stored; every other
  parameter and state counts at its dtype. A parameter that is both looked up
  and multiplied is a weight, at the wider of the two. In a training step what
  trains is the latent weight: every parameter counts as it is stored.
  """

  weights_by_bits: dict[int, int]
  # Elements of the weights of products, by bits.
  embeddings_by_bits: dict[int, int]
  # Elements of parameters that are only looked up.
  other_parameters_by_bits: dict[int, int]
  # Biases, norms, learned scales.
  batch_stats_bytes: float
  activations_bytes: int
  # The most at once of what depends on the data, if each value is stored.
  activations_tagged_bytes: int
  # The same, packed to the bits of tags and dtypes.
  states: dict[str, tuple[str, float]]
  # Caches and recurrent states: the class of the variable, and its bytes.
  leaves_out: str = LEAVES_OUT

  @property
  def weights_bytes(self) -> float:
    """Bytes of the weights of products."""
    return _total(self.weights_by_bits)

  @property
  def embeddings_bytes(self) -> float:
    """Bytes of the parameters that are only looked up."""
    return _total(self.embeddings_by_bits)

  @property
  def other_parameters_bytes(self) -> float:
    """Bytes of biases, norms and learned scales."""
    return _total(self.other_parameters_by_bits)

  @property
  def parameters_bytes(self) -> float:
    """Bytes of all parameters: what a file of the model holds."""
    parts = self.weights_bytes, self.embeddings_bytes
    return _whole(sum(parts) + self.other_parameters_bytes)

  @property
  def state_bytes(self) -> float:
    """Bytes of caches and recurrent states."""
    return _whole(sum(n for _, n in self.states.values()))

  @property
  def total_bytes(self) -> float:
    """Bytes of parameters, batch statistics and states."""
    parts = self.parameters_bytes, self.batch_stats_bytes, self.state_bytes
    return _whole(sum(parts))

  @property
  def peak_bytes(self) -> float:
    """Bytes at rest, and of the activations at their peak, at their tags.

    A state that is written in part is held once; one that is made anew, or
    stacked by a scan, stands beside what it was.
    """
    return _whole(self.total_bytes + self.activations_tagged_bytes)

  def rows(self) -> list[tuple[str, float]]:
    """The parts with their names, for a table."""
    parts = [
      ("weights", self.weights_bytes),
      ("embeddings", self.embeddings_bytes),
      ("other parameters", self.other_parameters_bytes),
      ("batch statistics", self.batch_stats_bytes),
      ("states", self.state_bytes),
    ]
    return [
      *((name, n) for name, n in parts if n),
      ("at rest", self.total_bytes),
      ("activations at peak", self.activations_tagged_bytes),
    ]

  def to_json(self) -> dict[str, Any]:
    """The parts as JSON values."""
    return {
      "weights_bytes": self.weights_bytes,
      "weights_by_bits": _keys(self.weights_by_bits),
      "embeddings_bytes": self.embeddings_bytes,
      "embeddings_by_bits": _keys(self.embeddings_by_bits),
      "other_parameters_bytes": self.other_parameters_bytes,
      "batch_stats_bytes": self.batch_stats_bytes,
      "activations_bytes": self.activations_bytes,
      "activations_tagged_bytes": self.activations_tagged_bytes,
      "states": {path: list(row) for path, row in self.states.items()},
      "state_bytes": self.state_bytes,
      "total_bytes": self.total_bytes,
      "peak_bytes": self.peak_bytes,
      "leaves_out": self.leaves_out,
    }


def widths(report: Report) -> dict[str, int]:
  """Bits of an element of each weight of the products, by its path.

  Those of its widest use; one that is widened for a product, as int8 codes are
  before their scale, is held as it is stored.
  """
  found = report.uses.multiplied
  return {p: min(n, report.parameters[p].bits) for p, n in found.items()}


def memory(report: Report) -> Memory:
  """What the model of a report holds in memory."""
  multiplied = widths(report)
  read = report.uses.read
  weights: dict[int, int] = {}
  embeddings: dict[int, int] = {}
  others: dict[int, int] = {}
  for path, parameter in report.parameters.items():
    bits, kept = parameter.bits, others
    if path in multiplied:
      bits, kept = max(multiplied[path], read.get(path, 0)), weights
    elif path in read:
      bits, kept = read[path], embeddings
    # What trains is the latent weight, as it is stored.
    bits = parameter.bits if report.is_training else min(bits, parameter.bits)
    kept[bits] = kept.get(bits, 0) + parameter.size
  return Memory(
    weights_by_bits=weights,
    embeddings_by_bits=embeddings,
    other_parameters_by_bits=others,
    batch_stats_bytes=_bytes(report.batch_stats_bits),
    activations_bytes=report.activations.bytes,
    activations_tagged_bytes=report.activations.tagged_bytes,
    states={
      path: (state.kind, _bytes(state.size * state.bits))
      for path, state in report.states.items()
    },
  )


def _total(by_bits: dict[int, int]) -> float:
  return _bytes(sum(bits * n for bits, n in by_bits.items()))


def _bytes(bits: int) -> float:
  whole, rest = divmod(bits, 8)
  return whole + rest / 8 if rest else whole


def _whole(n: float) -> float:
  return int(n) if n == int(n) else n


def _keys(by_bits: dict[int, int]) -> dict[str, int]:
  return {str(bits): n for bits, n in by_bits.items()}
