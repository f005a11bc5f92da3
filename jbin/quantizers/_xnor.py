"""XNOR-Net: signs with the mean magnitude as scale."""

from __future__ import annotations

import dataclasses

import jax

from jbin import estimators, references
from jbin.quantizers import _base, _parts


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

  Reference: Rastegari et al., 2016 (arXiv 1603.05279). Differs from the paper
  in: the gradient as BiBench's code has it (`keep_scale=False`; the paper adds
  `1/n`); inputs have one scale for each example, not the map K.
  """

  bits: int = dataclasses.field(default=1, init=False, repr=False)
  axes: tuple[int, ...] = (-1,)
  keep_scale: bool = False

  def __call__(
    self,
    x: jax.Array,
    *,
    progress: jax.Array | None = None,
    **variables: jax.Array,
  ) -> _base.Quantized:
    """Scaled signs of `x`, any shape that has the `axes`."""
    del progress, variables
    over = _parts.other_axes(x.ndim, self.axes)
    scale = _parts.mean_magnitude(x, over)
    codes = estimators.ste_sign(x, 1.0)
    return _base.make(
      codes,
      scale,
      bits=1,
      levels=(-1, 1),
      dtype=x.dtype,
      keep_scale=self.keep_scale,
    )
