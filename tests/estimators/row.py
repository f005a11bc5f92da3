"""One line of the contract's table: an estimator with its options."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

Array = np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
  """One estimator with its options, in formulas.

  Attributes:
    function: x -> y.
    value: x -> y in numpy.
    factor: x -> dy/dx in numpy.
    zero: the value at 0 and -0.
    edges: points where the formula has a case of its own.
    second: x -> the second derivative, at points that are no edges.
    keeps: what the backward pass keeps: "bits", or the input ("x").
    rtol: of the gradient in float32.
    value_rtol: of the value; 0: exact.
    atol: of the gradient in float32, where the factor crosses zero.
    fused: how far a compiled program's gradient may be from the op-by-op one,
      where sums and products are fused; 0: exact.
  """

  function: Callable[[jax.Array], jax.Array]
  value: Callable[[Array], Array]
  factor: Callable[[Array], Array]
  zero: float
  edges: tuple[float, ...]
  second: Callable[[Array], Array] = np.zeros_like
  keeps: str = "bits"
  rtol: float = 1e-6
  value_rtol: float = 0.0
  atol: float = 1e-30
  fused: float = 0.0


def sign(zero):
  return lambda x: np.where(x > 0, 1.0, np.where(x < 0, -1.0, zero))
