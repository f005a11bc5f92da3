"""XNOR-Net: signs with the mean magnitude as scale."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp

from jbin import errors, estimators, references, schedules
from jbin.quantizers import _base, _parts

_GRADIENTS = ("ste", "paper", "exact")


@_base.REGISTRY.register
@references.cites("xnornet")
@dataclasses.dataclass(frozen=True)
class xnor(_base.Quantizer):  # noqa: N801 - named as a function is called
  """Sign times the mean magnitude of each channel (XNOR-Net).

  Forward `y = s * sign(x)`, `s = mean |x|` over all axes but `axes`, constant
  for the gradient; backward `dx = dy * [|x| <= 1]`, or with the factor `s`
  (`keep_scale=True`). At zero: `+s`. A channel of zeros has scale 0 and a
  finite gradient.

  Attributes:
    axes: the axes that keep a scale of their own. (-1,): each output channel
      of a kernel. (0,): each example of an activation, as XNOR-Net scales its
      inputs. (): one scale for the tensor.
    keep_scale: whether the gradient carries the factor `s`.
    center: whether `x` is first put around its mean over the same axes as
      those of `s`, which the gradient sees too.
    edge: "closed", or "open": no gradient at `|x| = 1` itself.
    zero: the value at 0, before the scale. PyTorch code has 0 there, which is
      no bit: products then take the value, not codes.
    gradient: "ste", as above; "paper", `dx = dy * (s [|x| <= 1] + 1/n)` with n
      the entries that share `s`; or "exact", s differentiated too:
      `dx = dy * s [|x| <= 1] + sign(x) sum(dy sign(x)) / n`. The paper's
      window is open. `keep_scale` is part of the last two.

  BiBench's layers: kernels of convolutions are `xnor()` with XNOR-Net, DoReFa,
  Bi-Real and ReActNet, and XNOR-Net's inputs `xnor((0,))`. Linear kernels are
  `xnor(keep_scale=True, edge="open")` with DoReFa; with XNOR-Net they are
  `xnor(keep_scale=True, center=True)`, inputs `xnor((0,), keep_scale=True)`.

  Reference: Rastegari et al., 2016 (arXiv 1603.05279). Differs from the paper
  in: the gradient as BiBench's code has it (`keep_scale=False`, and
  `gradient="ste"`); inputs have one scale for each example, not the map K.

  Raises:
    errors.UserError: if the gradient is none of these.
  """

  bits: int = dataclasses.field(default=1, init=False, repr=False)
  axes: tuple[int, ...] = (-1,)
  keep_scale: bool = False
  center: bool = False
  edge: estimators.Edge = "closed"
  zero: float = 1.0
  gradient: Literal["ste", "paper", "exact"] = "ste"

  def __post_init__(self) -> None:
    """Checks the gradient's name."""
    super().__post_init__()
    if self.gradient not in _GRADIENTS:
      raise errors.UnknownName("gradient", self.gradient, _GRADIENTS)

  def _codes(
    self, x: jax.Array, scale: jax.Array, count: int, keep: estimators.Keep
  ) -> tuple[jax.Array, bool]:
    """The signs, and whether they leave their gradient's scale to `make`."""
    if self.gradient != "paper":
      codes = estimators.ste_sign(
        x, 1.0, edge=self.edge, zero=self.zero, keep=keep
      )
      return codes, self.keep_scale or self.gradient == "exact"
    codes = estimators.ste_sign(x, None, zero=self.zero)
    size = jnp.abs(jax.lax.stop_gradient(x))
    inside = size < 1 if self.edge == "open" else size <= 1
    return _parts.scale_gradient(codes, scale * inside + 1 / count), False

  @property
  def window(self) -> schedules.Hyper | None:
    """1; None where other numbers are compared, or all get a gradient."""
    return None if self.center or self.gradient == "paper" else 1.0

  def quantize(self, x: jax.Array, now: _base.Now) -> _base.Quantized:
    """Scaled signs of `x`, any shape that has the `axes`."""
    over = _parts.other_axes(x.ndim, self.axes)
    dtype = x.dtype
    if self.center:
      x = _parts.center(x, over)
    exact = self.gradient == "exact"
    scale = (_parts.magnitude if exact else _parts.mean_magnitude)(x, over)
    count = math.prod(x.shape[axis] for axis in over)
    keep = "bits" if self.center else now.keep
    codes, keep_scale = self._codes(x, scale, count, keep)
    return _base.signs(
      codes,
      scale,
      dtype=dtype,
      keep_scale=keep_scale,
      zero=self.zero,
    )
