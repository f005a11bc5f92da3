"""LAB: a small convolution decides which activations are +1."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax import lax

from jbin import errors, estimators, references
from jbin.quantizers import _base, _parts

Layout = Literal["code", "paper"]
WINDOW = 3


@_base.REGISTRY.register
@references.cites("lab")
@dataclasses.dataclass(frozen=True)
class lab_activation(_base.Quantizer):  # noqa: N801 - called like a function
  """Signs of the difference of two learned 3x3 filters (LAB).

  A depthwise convolution gives each channel two maps, `z = beta (x * f + c)`.
  For two maps z0 and z1 of the same channel ("paper"), forward
  `y = +1 if z1 > z0 else -1`; backward that of `2 softmax(z)_1 - 1`, which is
  `dz1 = -dz0 = dy * (1 - tanh(d)^2) / 2` with `d = (z1 - z0) / 2`; the filters,
  biases and beta are learned. Equal maps, and so both at zero: -1.

  Attributes:
    layout: which two maps a channel j compares. "code": the 2 C maps come
      channel by channel, but are read as two blocks of C, so that j has map
      `j % 2` of channel `j // 2` against map `(C + j) % 2` of channel
      `(C + j) // 2`. It is what the authors ran, so what their figures are of,
      and the default. "paper": both maps of channel j.
    beta: the factor on the maps; None: learned, from 1.
    spatial: how many axes are between the first and the last.

  Learned: `kernel` (3, 3, C, 2), `bias` (2 C,) and, if not given, `beta` ().

  The convolution is in floating point: it is no low-bit operation, and cost
  counts it. Reference: Falkena et al., 2023 (arXiv 2210.13858). Differs from
  the paper in `layout`; the filters begin normal with variance 1/9, about
  which the sources at hand say nothing.
  """

  bits: int = dataclasses.field(default=1, init=False, repr=False)
  layout: Layout = "code"
  beta: float | None = None
  spatial: int = 2

  def __post_init__(self) -> None:
    """Checks the layout."""
    super().__post_init__()
    if self.layout not in get_args(Layout):
      raise errors.UnknownName("layout", self.layout, get_args(Layout))

  @property
  def seeded(self) -> bool:
    """True: the filters are drawn."""
    return True

  def parameters(
    self,
    channels: int,
    x: jax.Array | None = None,
    key: jax.Array | None = None,
  ) -> Mapping[str, jax.Array]:
    """Drawn filters, zero biases, beta of 1."""
    del x
    key = _base.required_key(self, key)
    window = (WINDOW,) * self.spatial
    kernel = jax.random.normal(key, (*window, channels, 2), jnp.float32)
    learned = {
      "kernel": kernel / math.sqrt(math.prod(window)),
      "bias": jnp.zeros(2 * channels, jnp.float32),
    }
    if self.beta is None:
      learned["beta"] = jnp.ones((), jnp.float32)
    return learned

  def quantize(self, x: jax.Array, now: _base.Now) -> _base.Quantized:
    """Binarizes activations `x` (N, spatial..., C)."""
    if x.ndim != self.spatial + 2:
      raise errors.UserError(
        f"lab_activation: expected (N, {self.spatial} spatial axes, C), got"
        f" {x.shape}; give spatial={max(x.ndim - 2, 1)}"
      )
    maps = _maps(_parts.bounded(x), now["kernel"], now["bias"])
    beta = now["beta"] if self.beta is None else self.beta
    channels = x.shape[-1]
    if self.layout == "code":
      first, second = maps[..., :channels], maps[..., channels:]
    else:
      first, second = maps[..., ::2], maps[..., 1::2]
    gap = beta * (second - first)
    # tanh(gap / 2) is 2 softmax - 1.
    codes = estimators.ede_sign(gap, 0.5, k=1.0, zero=-1.0)
    return _base.signs(codes, None, dtype=x.dtype)


def _maps(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
  """Two maps for each channel, channel by channel: (N, ..., C) -> 2 C.

  Two convolutions of one map each: XLA on CPU is slow in the gradient of a
  grouped one with more outputs than inputs.
  """
  *window, channels, _ = kernel.shape
  spatial = "DHW"[-len(window) :]
  lhs, rhs = f"N{spatial}C", f"{spatial}IO"

  def one(index: int) -> jax.Array:
    return lax.conv_general_dilated(
      x,
      jnp.reshape(kernel[..., index], (*window, 1, channels)),
      (1,) * len(window),
      "SAME",
      dimension_numbers=(lhs, rhs, lhs),
      feature_group_count=channels,
    )

  maps = jnp.stack([one(0), one(1)], axis=-1)
  maps = jnp.reshape(maps, (*x.shape[:-1], 2 * channels))
  return _parts.along_last(bias, x.ndim) + maps
