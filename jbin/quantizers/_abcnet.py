"""ABC-Net: sums of binary bases."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jbin import errors, estimators, references
from jbin.quantizers import _base, _parts


def spread(bases: int) -> np.ndarray:
  """Evenly from -1 to 1; 0 for a single one."""
  return np.linspace(-1, 1, bases) if bases > 1 else np.zeros(1)


def _filled(levels: list[jax.Array], there: list[jax.Array]) -> list[jax.Array]:
  """Levels, those that are not there on a line between their neighbours.

  The first and the last always are.
  """
  before, since = [levels[0]], [jnp.zeros_like(levels[0])]
  for level, known in zip(levels[1:-1], there[1:], strict=True):
    before.append(jnp.where(known, level, before[-1]))
    since.append(jnp.where(known, 0.0, since[-1] + 1))
  filled = [levels[-1]]
  after, until = levels[-1], jnp.ones_like(levels[-1])
  for r in range(len(levels) - 2, 0, -1):
    share = since[r] / (since[r] + until)
    filled.append(before[r] + share * (after - before[r]))
    after = jnp.where(there[r], levels[r], after)
    until = jnp.where(there[r], 1.0, until + 1)
  return [levels[0], *filled[::-1]]


def _count(positive: list[jax.Array]) -> jax.Array:
  """How many bases are +1, for each entry."""
  return sum((p.astype(jnp.int32) for p in positive), start=jnp.int32(0))


def _as_bits(quantizer: abcnet_weight | abcnet_activation) -> None:
  """Its bits are its bases."""
  bases = quantizer.bases
  if not isinstance(bases, int) or not 1 <= bases <= 8:
    raise errors.UserError(
      f"{type(quantizer).__name__}: bases must be an integer from 1 to 8, got"
      f" {bases!r}"
    )
  object.__setattr__(quantizer, "bits", bases)


@_base.REGISTRY.register
@references.cites("abcnet")
@dataclasses.dataclass(frozen=True)
class abcnet_weight(_base.Quantizer):  # noqa: N801 - called like a function
  """Weights as the nearest sum of M binary bases (ABC-Net).

  `B_m = sign(w - mean + u_m sd)` with the population's standard deviation and
  `u_m` evenly from -1 to 1 (0 for M = 1); `alpha` minimizes
  `|w - sum alpha_m B_m|^2`.
  Forward `y = sum alpha_m B_m`; backward `dw = (sum alpha_m) dy`: each base is
  the identity, alpha, mean and deviation are constant. At zero (of a base's
  argument): +1. Constant weights are met exactly.

  Attributes:
    bases: M, 1 to 8. A product with M bases is M binary ones, so the tensor
      counts as M bits wide. One base has codes; more have none, and products
      take the value.
    axes: the axes that keep a mean, a deviation and an alpha of their own:
      (), those of the tensor; (-1,), of each output channel.

  Reference: Lin et al., 2017 (arXiv 1711.11294). Differs from the paper in:
  the u_m are not trained, which it leaves open.
  """

  bits: int = dataclasses.field(init=False, repr=False)
  bases: int = 3
  axes: tuple[int, ...] = ()

  def __post_init__(self) -> None:
    """Takes the width from the bases."""
    _as_bits(self)
    super().__post_init__()

  def _bases(self, x: jax.Array, over: tuple[int, ...]) -> list[jax.Array]:
    """Whether each base is +1, by ascending shift."""
    deviation = _parts.center(x, over)
    sd = jnp.sqrt(jnp.square(deviation).mean(over, keepdims=True))
    return [deviation + float(u) * sd >= 0 for u in spread(self.bases)]

  def _levels(
    self, x: jax.Array, over: tuple[int, ...], reached: jax.Array
  ) -> list[jax.Array]:
    """The best level for each number of bases that are +1.

    The bases are nested, so least squares has a closed form: a sum of them is
    one level for each number of +1, free but for the ends, which are opposite;
    the best are the means of their entries. Bases that no entry tells apart
    share alpha evenly.
    """

    def count(r: jax.Array) -> tuple[jax.Array, jax.Array]:
      here = reached == r
      number = here.sum(over, keepdims=True).astype(jnp.float32)
      return number, jnp.where(here, x, 0.0).sum(over, keepdims=True)

    numbers, totals = jax.lax.map(count, jnp.arange(self.bases + 1))
    inner = list(zip(numbers[1:-1], totals[1:-1], strict=True))
    outside = numbers[0] + numbers[-1]
    end = (totals[-1] - totals[0]) / jnp.maximum(outside, 1.0)
    # With none outside, whatever the ends are; not 0, which ends learning.
    end = jnp.where(outside > 0, end, _parts.mean_magnitude(x, over))
    return _filled(
      [-end, *(t / jnp.maximum(n, 1.0) for n, t in inner), end],
      [jnp.ones_like(end, bool), *(n > 0 for n, _ in inner)],
    )

  def fit(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The bases (..., M) of `x`, and their alphas, which broadcast with them.

    Both are float32 and carry no gradient.
    """
    wide = jax.lax.stop_gradient(_parts.bounded(x))
    over = _parts.other_axes(x.ndim, self.axes)
    positive = self._bases(wide, over)
    levels = self._levels(wide, over, _count(positive))
    # The base with the greatest shift is the first to be +1.
    steps = [(b - a) / 2 for a, b in itertools.pairwise(levels)]
    bases = jnp.where(jnp.stack(positive, -1), 1.0, -1.0)
    return bases, jnp.stack(steps[::-1], -1)

  def quantize(self, x: jax.Array, now: _base.Now) -> _base.Quantized:
    """Quantizes weights `x`, any shape that has the `axes`."""
    wide = jax.lax.stop_gradient(_parts.bounded(x))
    over = _parts.other_axes(x.ndim, self.axes)
    reached = _count(self._bases(wide, over))
    levels = self._levels(wide, over, reached)
    total = levels[-1]  # all bases +1: the sum of the alphas
    if self.bases == 1:
      return _base.signs(
        _parts.straight_through(x, 2 * reached - 1),
        total,
        dtype=x.dtype,
        keep_scale=True,
      )
    value = jnp.broadcast_to(levels[0], x.shape)
    for r, level in enumerate(levels[1:], 1):
      value = jnp.where(reached >= r, level, value)
    value = _parts.scale_gradient(_parts.straight_through(x, value), total)
    top = 2**self.bits - 1
    return _base.without_codes(value, bits=self.bits, levels=(0, top))


@_base.REGISTRY.register
@references.cites("abcnet")
@dataclasses.dataclass(frozen=True)
class abcnet_activation(_base.Quantizer):  # noqa: N801 - called like a function
  """Activations as a learned sum of N shifted signs (ABC-Net).

  `H_n(x) = +1 if x + v_n >= 1/2 else -1`; forward `y = sum beta_n H_n(x)`;
  backward `dx = dy * sum beta_n [0 <= x + v_n <= 1]`,
  `dv_n = beta_n sum dy * [0 <= x + v_n <= 1]`, `dbeta_n = sum dy * H_n`. At
  zero: each H_n by its shift.

  Attributes:
    bases: N, 1 to 8, the width that the tensor counts as. One base has codes;
      more have none, and products take the value.
    shifts: v at the start; None: evenly from -1 to 1, 0 for one base. Bases
      that start equal stay equal: all their gradients are.

  `beta` (ones at the start) and `shift` are learned, of shape (N,), for the
  whole tensor. Reference: Lin et al., 2017 (arXiv 1711.11294). Differs from
  the paper in: the shifts start apart, since equal ones never part.

  Raises:
    errors.UserError: if there is not one shift for each base.
  """

  bits: int = dataclasses.field(init=False, repr=False)
  bases: int = 3
  shifts: tuple[float, ...] | None = None

  def __post_init__(self) -> None:
    """Takes the width from the bases, and counts the shifts."""
    _as_bits(self)
    super().__post_init__()
    if self.shifts is not None and len(self.shifts) != self.bases:
      raise errors.UserError(
        f"abcnet_activation: {self.bases} bases need as many shifts, got"
        f" {self.shifts}"
      )

  def parameters(
    self,
    channels: int,
    x: jax.Array | None = None,
    key: jax.Array | None = None,
  ) -> Mapping[str, jax.Array]:
    """`beta` and `shift`, of shape (N,)."""
    del channels, x, key
    shifts = spread(self.bases) if self.shifts is None else self.shifts
    return {
      "beta": jnp.ones(self.bases, jnp.float32),
      "shift": jnp.asarray(shifts, jnp.float32),
    }

  def quantize(self, x: jax.Array, now: _base.Now) -> _base.Quantized:
    """Quantizes activations `x` of any shape."""
    beta, shift = (
      [jnp.reshape(part, (1,) * x.ndim) for part in now[name]]
      for name in ("beta", "shift")
    )
    wide = x.astype(jnp.float32)
    # clip(u, 0, 1) >= 1/2 is the sign of u - 1/2, its window half as wide.
    signs = [estimators.ste_sign(wide + (v - 0.5), 0.5) for v in shift]
    if self.bases == 1:
      return _base.signs(
        signs[0],
        beta[0],
        dtype=x.dtype,
        keep_scale=True,
      )
    value = sum(
      (b * sign for b, sign in zip(beta, signs, strict=True)),
      start=jnp.zeros_like(wide),
    )
    top = 2**self.bits - 1
    return _base.without_codes(
      value.astype(x.dtype), bits=self.bits, levels=(0, top)
    )
