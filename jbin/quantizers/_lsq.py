"""LSQ: uniform levels whose step is learned."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jbin import errors, references
from jbin.quantizers import _base, _parts

Count = Literal["tensor", "example", "none"]
FLOOR = 1e-8  # the least step


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def codes_of(
  x: jax.Array,
  step: jax.Array,
  low: int,
  high: int,
  one_bit: bool,
  zero: float,
) -> jax.Array:
  """The codes of `x` for a learned step, to be multiplied by the step.

  Forward `c = round(clip(x / step, low, high))`, ties to even, or the sign of
  `x` (`one_bit`, levels -1 and +1). Backward, for the value `c * step` of
  which the caller holds the second factor constant:
  `dx = dy * [low <= x / step <= high]` and
  `dstep = sum dy * (c - x / step where inside, c outside)`, with `c` alone in
  the one-bit case.

  Args:
    x: float32.
    step: float32, positive, broadcasts with `x` (same rank).
    low: the least code.
    high: the greatest code.
    one_bit: signs in place of rounding.
    zero: the sign at 0.
  """
  if one_bit:
    return jnp.where(x > 0, 1.0, jnp.where(x < 0, -1.0, zero))
  return jnp.round(jnp.clip(x / step, low, high))


def _forward(
  x: jax.Array,
  step: jax.Array,
  low: int,
  high: int,
  one_bit: bool,
  zero: float,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  return codes_of(x, step, low, high, one_bit, zero), (x, step)


def _backward(
  low: int,
  high: int,
  one_bit: bool,
  zero: float,
  kept: tuple[jax.Array, jax.Array],
  g: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  x, step = kept
  upstream = g / step  # that of the value: its second factor is taken off
  steps = x / step
  inside = (steps >= low) & (steps <= high)
  error: jax.Array = codes_of(x, step, low, high, one_bit, zero)
  if not one_bit:
    error = jnp.where(inside, error - steps, error)
  over = [axis for axis, size in enumerate(step.shape) if size == 1]
  dstep = (upstream * error).sum(over, keepdims=True)
  return jnp.where(inside, upstream, 0.0), dstep


codes_of.defvjp(_forward, _backward)


def levels_of(bits: int, signed: bool, symmetric: bool) -> tuple[int, int]:
  """The least and greatest code; one signed bit has -1 and +1."""
  if not signed:
    return 0, 2**bits - 1
  high = max(2 ** (bits - 1) - 1, 1)
  return (-high if symmetric or bits == 1 else -(2 ** (bits - 1))), high


def quantize(
  x: jax.Array,
  step: jax.Array,
  *,
  bits: int,
  levels: tuple[int, int],
  floor: float = FLOOR,
  count: Count = "tensor",
  zero: float = 1.0,
  offset: jax.Array | None = None,
  dtype: Any = None,
) -> _base.Quantized:
  """LSQ of `x` with a given step; what BiT's activations share with it.

  Args:
    x: floating, any shape.
    step: float32, broadcasts with `x` once it has its rank in front.
    bits: the width.
    levels: the least and greatest code.
    floor: the least step in use; below it the step still gets a gradient.
    count: the entries that the step's gradient is divided by the root of.
    zero: the sign at 0, of one signed bit; 0.0 leaves no codes.
    offset: taken off before, added after; constant.
    dtype: of the value; None for that of `x`.
  """
  low, high = levels
  entries = {
    "tensor": x.size,
    "example": x.size // max(x.shape[0], 1) if x.ndim else 1,
  }
  step = jnp.reshape(step, (1,) * (x.ndim - step.ndim) + step.shape)
  if count != "none":
    factor = 1 / math.sqrt(max(entries[count], 1) * high)
    step = _parts.scale_gradient(step, jnp.float32(factor))
  step = _parts.straight_through(step, jnp.maximum(step, floor))
  wide = x.astype(jnp.float32)
  if offset is not None:
    wide = wide - offset
  one_bit = bits == 1 and low < 0
  return _base.make(
    codes_of(wide, step, low, high, one_bit, zero),
    jax.lax.stop_gradient(step),
    bits=bits,
    levels=levels,
    dtype=dtype or x.dtype,
    offset=offset,
    keep_scale=True,
    exact=not one_bit or abs(zero) == 1,
  )


@_base.REGISTRY.register
@references.cites("lsq")
@dataclasses.dataclass(frozen=True)
class lsq(_base.Quantizer):  # noqa: N801 - named as a function is called
  """Uniform levels with a learned step (LSQ: weights and activations).

  With `v = x / s`: forward `y = s * round(clip(v, Qn, Qp))`, ties to even;
  backward `dx = dy * [Qn <= v <= Qp]` and
  `ds = c * sum dy * (round(v) - v inside, Qn below, Qp above)`,
  `c = 1 / sqrt(N * Qp)`. At zero: 0.
  Levels: signed `[-2^(b-1), 2^(b-1) - 1]`, unsigned `[0, 2^b - 1]`. One
  signed bit has no level above zero in that formula; it is a sign here, as in
  BiT: `y = s * sign(x)` (+s at zero), `dx = dy * [|v| <= 1]`,
  `ds = c * sum dy * sign(x)`, `Qp = 1`.
  The learned `step`, () or (channels,), starts at `2 mean|x| / sqrt(Qp)`.

  Attributes:
    bits: the width, 1 to 8.
    signed: whether levels lie on both sides of zero.
    per_channel: a step for each entry of the last axis, or one for the tensor.
    symmetric: leaves the least signed level out: `Qn = -Qp`.
    count: what N counts: the "tensor", one "example" (axis 0 left out, so that
      the gradient does not shrink as the batch grows), or "none": `c = 1`.

  Reference: Esser et al., 2020 (arXiv 1902.08153). Differs from the paper in:
  N is the whole tensor (the paper's number of features is `count="example"`),
  with a step for each channel too, as common code has it; a step below 1e-8
  is used as 1e-8.
  """

  bits: int = 4
  signed: bool = True
  per_channel: bool = False
  symmetric: bool = False
  count: Count = "tensor"

  def __post_init__(self) -> None:
    """Checks the count."""
    super().__post_init__()
    known = ("tensor", "example", "none")
    if self.count not in known:
      raise errors.UnknownName("count", self.count, known)

  @property
  def levels(self) -> tuple[int, int]:
    """The least and greatest code."""
    return levels_of(self.bits, self.signed, self.symmetric)

  def quantize(self, x: jax.Array, now: _base.Now) -> _base.Quantized:
    """Quantizes `x`, any shape, with the `step` given."""
    return quantize(
      x,
      now["step"],
      bits=self.bits,
      levels=self.levels,
      count=self.count,
    )

  def parameters(
    self,
    channels: int,
    x: jax.Array | None = None,
    key: jax.Array | None = None,
  ) -> Mapping[str, jax.Array]:
    """The step, from the tensor's mean magnitude."""
    del key
    kept, shape = ((-1,), (channels,)) if self.per_channel else ((), ())
    size = _parts.initial_magnitude(x, kept, shape)
    return {"step": 2 * size / math.sqrt(self.levels[1])}

  @property
  def calibrates(self) -> bool:
    """True: the step starts from the tensor."""
    return True
