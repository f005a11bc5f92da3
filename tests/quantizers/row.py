"""One line of the contract's table: a quantizer with its options, in numpy."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import numpy as np

from jbin import quantizers
from tests.quantizers.formulas import SHAPE, TENSOR

Array = np.ndarray


def start(quantizer: quantizers.Quantizer):
  """x -> the quantizer's own initial values, for a kernel `x`."""

  def variables(x):
    key = jax.random.key(0) if quantizer.seeded else None
    return {
      **quantizer.parameters(SHAPE[-1], x, key),
      **quantizer.statistics(SHAPE[-1], x),
    }

  return variables


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
  """One quantizer with its options, in formulas.

  Attributes:
    quantizer: what is tested.
    formula: x -> (value, pull) or (value, pull, {learned name: pull}), float32;
      NaN where rounding decides. A pull is the factor dy/dx, or a function of
      the upstream gradient g that gives the gradient.
    kept: the axes along which the scale (or the levels) may vary.
    progress: for one with a schedule.
    variables: x -> the learned values and statistics; None: the initial ones.
    coded: whether products get codes.
    second: the second derivative. "formula": that of the formula's gradient.
      "held": the same where the means and ends of x stand still; they are
      constants for the quantizer. "finite": more is not checked (say why).
    levels: distinct values in a slice along `kept`; None: 2^bits. 0: not
      checked (say why beside the row).
    rtol: of the comparison in float32.
    rtol16: of the comparison in bfloat16.
  """

  quantizer: quantizers.Quantizer
  formula: Callable[[Array], Any]
  kept: tuple[int, ...] = TENSOR
  progress: float | None = None
  variables: Callable[[Array], Mapping[str, Any]] | None = None
  coded: bool = True
  levels: int | None = None
  second: Literal["formula", "held", "finite"] = "formula"
  rtol: float = 2e-6
  rtol16: float = 2.0**-8

  def values(self, x: Array) -> Mapping[str, Any]:
    """The learned values and statistics that the call gets."""
    return (self.variables or start(self.quantizer))(x)
