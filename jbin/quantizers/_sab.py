"""BiViT's softmax-aware binarization of attention probabilities."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jbin import errors, references, schedules
from jbin.quantizers import _base, _parts


def _share(total: jax.Array, count: jax.Array) -> jax.Array:
  """A mean of what is chosen; 0 where nothing is."""
  return total / jnp.maximum(count, 1.0)


@_base.REGISTRY.register
@references.cites("bivit")
@dataclasses.dataclass(frozen=True)
class sab(_base.Quantizer):  # noqa: N801 - named as a function is called
  """1 from a share of the row's largest probability on, else 0 (BiViT's SAB).

  Forward `y = v * b`, `b = 1 if p >= min(beta * m, m) else 0`, `m = max(p)`
  over the last axis, the keys; `v = 1`, or, `scaled`, the factor that is
  nearest to the row, `v = <p, b> / <b, b>`. Backward `dp = dy`: straight
  through, v a constant without a factor; the way from p to the scores is
  the gradient of `jax.nn.softmax` itself, `da = p * (dp - <dp, p>)`.
  At ties and equality: 1, so a row of equal numbers is all 1, and each row
  has a 1. At zero: 0, or 1 in a row whose largest is 0. A row with a NaN is
  all 0. Rows that softmax did not make, of negative numbers alone, keep what
  equals their largest.

  Attributes:
    beta: the share, 0 to 1; a number or a schedule.
    scaled: whether each row has its scale v. It cannot change the sign of
      what it is multiplied with; it brings the binary row nearer to p.

  A `weights_quantizer` behind softmax. `coordinate_descent` is the paper's
  search for the best v and b, which `beta=0.25` stands in for.
  Reference: He et al., 2023 (arXiv 2211.07091). Differs from the code in:
  the value is 0 or 1 exactly (theirs is `b - p + p`).
  """

  bits: int = dataclasses.field(default=1, init=False, repr=False)
  beta: schedules.Hyper = 0.25
  scaled: bool = False

  def __post_init__(self) -> None:
    """Checks the share."""
    super().__post_init__()
    if not callable(self.beta) and not 0.0 <= self.beta <= 1.0:
      raise errors.UserError(
        f"sab: beta is {self.beta}; it is a share of the largest, 0 to 1"
      )

  def quantize(self, x: jax.Array, now: _base.Now) -> _base.Quantized:
    """Binarizes rows along the last axis of `x`, any rank but 0."""
    wide = jax.lax.stop_gradient(x).astype(jnp.float32)
    most = wide.max(-1, keepdims=True)
    chosen = wide >= jnp.minimum(now.value(self.beta) * most, most)
    scale = None
    if self.scaled:
      seen = jnp.where(chosen, _parts.bounded(wide), 0.0)
      count = chosen.sum(-1, keepdims=True, dtype=jnp.float32)
      scale = _share(seen.sum(-1, keepdims=True), count)
    return _base.make(
      _parts.straight_through(x, chosen),
      scale,
      bits=1,
      levels=(0, 1),
      dtype=x.dtype,
    )


class Descent(NamedTuple):
  """What each iteration of `coordinate_descent` found, on the first axis.

  Attributes:
    scale: v, (iterations, ..., 1).
    codes: b, 0 or 1, (iterations, ..., n).
    threshold: v / 2, (iterations, ..., 1).
  """

  scale: jax.Array
  codes: jax.Array
  threshold: jax.Array


def coordinate_descent(
  probabilities: jax.Array, iterations: int = 5
) -> Descent:
  """Binary codes and a scale near to each row, by turns (BiViT, algorithm 1).

  For each row a of the last axis it lowers `|a - v b|^2` over `v >= 0` and
  `b in {0, 1}^n`, from `b = 1`: `v = <a, b> / <b, b>`, then
  `b = 1 if a >= v / 2 else 0`. It is a local search, which need not meet the
  best code. At ties and equality 1, so that each row has a 1; a row of zeros
  has v = 0 and is all 1. No gradient: a figure to compare `sab` with.

  Args:
    probabilities: (..., n), floating, not negative; the arithmetic is in
      float32, or in float64 where they are.
    iterations: how many, at least 1; part of the program (static).

  Raises:
    errors.UserError: if there are no iterations.

  Reference: He et al., 2023 (arXiv 2211.07091). Differs from the paper in
  nothing that is known; the authors' code does not have it.
  """
  if iterations < 1:
    raise errors.UserError(
      f"coordinate_descent: iterations is {iterations}; it is at least 1"
    )
  wide = jax.lax.stop_gradient(jnp.asarray(probabilities))
  wide = wide.astype(jnp.promote_types(wide.dtype, jnp.float32))

  def turn(codes: jax.Array, _: None) -> tuple[jax.Array, Descent]:
    total = (wide * codes).sum(-1, keepdims=True)
    scale = total / codes.sum(-1, keepdims=True)
    codes = (wide >= scale / 2).astype(wide.dtype)
    return codes, Descent(scale, codes, scale / 2)

  start = jnp.ones_like(wide)
  return jax.lax.scan(turn, start, None, length=iterations)[1]
