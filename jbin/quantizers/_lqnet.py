"""LQ-Nets: levels from a basis that follows the tensor."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jbin import references
from jbin.quantizers import _base, _parts

QUARTILE = 0.6745  # of a standard normal's upper half: the code's start
RIDGE = 1e-4  # holds a channel's basis where its codes do not settle it


def _broad(basis: jax.Array, ndim: int) -> jax.Array:
  """A basis (C, b) or (b,), to broadcast with a tensor and an axis more."""
  shape = basis.shape
  return jnp.reshape(basis, (1,) * (ndim + 1 - len(shape)) + shape)


def _staircase(
  basis: jax.Array, signed: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Of a basis (..., b): levels (..., 2^b) ascending, the middles, the codes.

  A level is the sum of the basis times a code (b entries): all of +-1
  (signed), or of 0 and 1. The leading axes broadcast with the tensor.
  """
  count = basis.shape[-1]
  table = (np.arange(2**count)[:, None] >> np.arange(count)) & 1
  table = np.float32(2 * table - 1 if signed else table)
  every = table.reshape((1,) * (basis.ndim - 1) + table.shape)
  levels = (every * basis[..., None, :]).sum(-1)
  order = jnp.argsort(levels, -1)
  levels = jnp.take_along_axis(levels, order, -1)
  middles = (levels[..., 1:] + levels[..., :-1]) / 2
  return levels, middles, jnp.asarray(table)[order]


def _nearest(x: jax.Array, levels: jax.Array, middles: jax.Array) -> jax.Array:
  """The level of each entry; on a middle, the one below."""
  x = x.astype(jnp.float32)
  value = jnp.broadcast_to(levels[..., 0], x.shape)
  for i in range(middles.shape[-1]):
    value = jnp.where(x > middles[..., i], levels[..., i + 1], value)
  return value


def _solve(
  gram: jax.Array, target: jax.Array, start: jax.Array, ridge: float = 0.0
) -> jax.Array:
  """Coefficients of least squares from the normal equations.

  `v = start + (G + ridge)^+ (target - G start)`, which minimizes
  `|x - B v|^2 + ridge |v - start|^2` for `G = B'B` and `target = B'x`. A
  direction that the bases do not span (eigenvalue below 1e-6 of the largest)
  stays as it starts.

  Args:
    gram: float32 (..., M, M).
    target: float32 (..., M).
    start: float32 (..., M).
    ridge: how strongly v is held at `start`.
  """
  missing = target - (gram * start[..., None, :]).sum(-1)
  size, axes = jnp.linalg.eigh(gram)
  spanned = size > 1e-6 * size[..., -1:]
  inverse = jnp.where(spanned, 1 / jnp.where(spanned, size + ridge, 1.0), 0.0)
  along = (axes * missing[..., :, None]).sum(-2)
  return start + (axes * (inverse * along)[..., None, :]).sum(-1)


def _refit(
  x: jax.Array,
  basis: jax.Array,
  over: tuple[int, ...],
  signed: bool,
  ridge: float,
) -> jax.Array:
  """The basis that fits `x` best with the codes that it has under `basis`."""
  x = jax.lax.stop_gradient(_parts.bounded(x))
  basis = jax.lax.stop_gradient(basis)
  _, middles, codes = _staircase(basis, signed)
  end = jnp.full((*middles.shape[:-1], 1), jnp.inf)

  def count(ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    low, high = ends
    here = (x > low) & (x <= high)
    number = here.sum(over, keepdims=True).astype(jnp.float32)
    return number, jnp.where(here, x, 0.0).sum(over, keepdims=True)

  # Level by level: an axis for the levels would be written to memory.
  ends = (
    jnp.moveaxis(jnp.concatenate(parts, -1), -1, 0)
    for parts in ((-end, middles), (middles, end))
  )
  number, total = (
    jnp.moveaxis(part, 0, -1) for part in jax.lax.map(count, tuple(ends))
  )
  pairs = codes[..., :, None] * codes[..., None, :]
  gram = (number[..., None, None] * pairs).sum(-3)
  target = (total[..., None] * codes).sum(-2)
  return _solve(gram, target, basis, ridge)


@_base.REGISTRY.register
@references.cites("lqnet")
@dataclasses.dataclass(frozen=True)
class lqnet_weight(_base.Quantizer):  # noqa: N801 - called like a function
  """Weights on sums of +-1 times a basis of each output channel (LQ-Nets).

  The levels of a channel are the `2^bits` sums `sum +-v_i`; forward the
  nearest (the lower one at a tie: one bit has -v at zero), backward `dw = dy`.
  `update` refits the basis to the codes by least squares (with 1e-4 of the
  old one, which keeps it where the codes leave it open), and moves it there
  by `rate`. One bit has codes; more have none, since levels are no multiples
  of a step: products take the value.

  Attributes:
    bits: the width, 1 to 8.
    rate: how far the basis moves, each step.

  The basis is a statistic (channels, bits). It starts at `v_i = 2^i * 0.6745
  sd / 2^(bits-1)`, `sd = sqrt(2 / n)` for a kernel, n its entries without the
  input channels, and 1 without. Reference: Zhang et al., 2018 (arXiv
  1807.10029). Differs from the code in: a step quantizes with the basis that
  it has just moved, not with that of the step before.
  """

  bits: int = 2
  rate: float = 0.1

  def statistics(
    self, channels: int, x: jax.Array | None = None
  ) -> Mapping[str, jax.Array]:
    """`basis`, (channels, bits)."""
    sd = 1.0
    if x is not None:
      sd = math.sqrt(2 / (math.prod(x.shape[:-2]) * x.shape[-1]))
    steps = 2.0 ** np.arange(self.bits) / 2 ** (self.bits - 1)
    basis = jnp.asarray(QUARTILE * sd * steps, jnp.float32)
    return {"basis": jnp.tile(basis, (channels, 1))}

  def update(
    self,
    x: jax.Array,
    *,
    progress: jax.Array | None,
    **statistics: jax.Array,
  ) -> Mapping[str, jax.Array]:
    """The basis after it has seen the kernel `x`."""
    del progress
    basis = statistics["basis"]
    over = _parts.other_axes(x.ndim, (-1,))
    new = _refit(x, _broad(basis, x.ndim), over, True, RIDGE)
    new = jnp.reshape(new, basis.shape)
    return {"basis": basis + self.rate * (new - basis)}

  def quantize(self, x: jax.Array, now: _base.Now) -> _base.Quantized:
    """Quantizes a kernel `x` whose last axis is the output channel."""
    basis = jax.lax.stop_gradient(now["basis"])
    if self.bits == 1:
      return _base.signs(
        _parts.straight_through(x, jnp.where(x > 0, 1.0, -1.0)),
        _parts.along_last(jnp.abs(basis[:, 0]), x.ndim),
      )
    levels, middles, _ = _staircase(_broad(basis, x.ndim), True)
    value = _parts.straight_through(x, _nearest(x, levels, middles))
    top = 2**self.bits - 1
    return _base.without_codes(value, bits=self.bits, levels=(-top, top))


@_base.REGISTRY.register
@references.cites("lqnet")
@dataclasses.dataclass(frozen=True)
class lqnet_activation(_base.Quantizer):  # noqa: N801 - called like a function
  """Activations on sums of 0 or 1 times a basis of the tensor (LQ-Nets).

  The levels are the `2^bits` sums of entries of the basis; forward the nearest
  (the lower one at a tie), backward `dx = dy * [x <= top level]`: it stands
  after a ReLU. `update` refits the basis to the codes by least squares (and
  leaves it where they leave it open), and moves it there by `rate`. At zero:
  0. One bit has codes; more have none: products take the value.

  Attributes:
    bits: the width, 1 to 8.
    rate: how far the basis moves, each step.

  The basis is a statistic (bits,), at first `v_i = 2^i * 2 * 0.6745 /
  (2^bits - 1)`. Reference: Zhang et al., 2018 (arXiv 1807.10029). Differs
  from the code in: a step quantizes with the basis that it has just moved,
  not with that of the step before.
  """

  bits: int = 2
  rate: float = 0.1

  def statistics(
    self, channels: int, x: jax.Array | None = None
  ) -> Mapping[str, jax.Array]:
    """`basis`, (bits,)."""
    del channels, x
    steps = 2.0 ** np.arange(self.bits) / (2**self.bits - 1)
    return {"basis": jnp.asarray(2 * QUARTILE * steps, jnp.float32)}

  def update(
    self,
    x: jax.Array,
    *,
    progress: jax.Array | None,
    **statistics: jax.Array,
  ) -> Mapping[str, jax.Array]:
    """The basis after it has seen the activations `x`."""
    del progress
    basis = statistics["basis"]
    over = tuple(range(x.ndim))
    new = _refit(x, _broad(basis, x.ndim), over, False, 0.0)
    new = jnp.reshape(new, basis.shape)
    return {"basis": basis + self.rate * (new - basis)}

  def quantize(self, x: jax.Array, now: _base.Now) -> _base.Quantized:
    """Quantizes activations `x` of any shape."""
    basis = jax.lax.stop_gradient(now["basis"])
    levels, middles, _ = _staircase(_broad(basis, x.ndim), False)
    # Zero gradient above the top level; only the gradient is used.
    passing = jnp.where(x <= levels[..., -1], x, jnp.zeros_like(x))
    top = 2**self.bits - 1
    if self.bits == 1:
      # A negative basis swaps the two levels.
      upper = (x > middles[..., 0]) != (basis[0] < 0)
      return _base.make(
        _parts.straight_through(passing, upper),
        jnp.reshape(basis, (1,) * x.ndim),
        bits=1,
        levels=(0, 1),
      )
    value = _parts.straight_through(passing, _nearest(x, levels, middles))
    return _base.without_codes(value, bits=self.bits, levels=(0, top))
