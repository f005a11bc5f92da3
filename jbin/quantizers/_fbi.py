"""FBI-Linear's weights: signs with a learned scale and a learned offset."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp

from jbin import errors, estimators, references
from jbin.quantizers import _base, _parts

Pattern = Literal["column", "row", "single"]
_KEPT: Mapping[str, tuple[int, ...]] = {
  "column": (-2,),
  "row": (-1,),
  "single": (),
}


@_base.REGISTRY.register
@references.cites("fbi_llm", "bimamba")
@dataclasses.dataclass(frozen=True)
class fbi_weight(_base.Quantizer):  # noqa: N801 - named as a function is called
  """Signs times a learned scale, plus a learned offset (FBI-LLM, Bi-Mamba).

  Forward `y = alpha * sign(w) + beta`; backward `dw = alpha * dy` everywhere,
  `dalpha = sum dy * sign(w)`, `dbeta = sum dy`, the sums over what shares an
  alpha. At zero: `+alpha + beta`. The learned `alpha` and `beta` start from
  the kernel, over what shares them: `beta = mean(w)`, `alpha = mean|w - beta|`;
  the sign is that of `w` itself.

  An offset cannot be taken out of a product, nor can a scale for each input
  feature: products take the value.

  Attributes:
    pattern: what has an alpha and a beta of its own: "column": each input
      feature (the last axis but one of a kernel), as both papers train;
      "row": each output feature; "single": the kernel.
    zero: the sign at 0: the code has 0.0, the paper -1.0.

  Raises:
    errors.UserError: if the pattern is unknown, or the kernel has another
      number of input features than the alpha given.

  Reference: Ma et al., 2024 (arXiv 2407.07093); Tang et al., 2024 (arXiv
  2411.11843). Differs from the code in: sign(0) = +1.
  """

  bits: int = dataclasses.field(default=1, init=False, repr=False)
  pattern: Pattern = "column"
  zero: float = 1.0

  def __post_init__(self) -> None:
    """Checks the pattern."""
    super().__post_init__()
    if self.pattern not in _KEPT:
      raise errors.UnknownName("pattern", self.pattern, _KEPT)

  def quantize(self, x: jax.Array, now: _base.Now) -> _base.Quantized:
    """Binarizes a kernel `x` (..., in, out)."""
    shape = self._shape(x)
    alpha, beta = (now[name] for name in ("alpha", "beta"))
    for name, part in (("alpha", alpha), ("beta", beta)):
      if part.shape != shape:
        raise errors.UserError(
          f"fbi_weight({self.pattern!r}): {name} has the shape {part.shape},"
          f" a kernel {x.shape} needs {shape}; take it from parameters()"
        )
    spread = [1] * x.ndim
    for axis in _KEPT[self.pattern]:
      spread[axis] = x.shape[axis]
    return _base.signs(
      estimators.ste_sign(x.astype(jnp.float32), None, zero=self.zero),
      jnp.reshape(alpha, spread),
      offset=jnp.reshape(beta, spread),
      dtype=x.dtype,
      keep_scale=True,
      zero=self.zero,
    )

  def _shape(self, x: jax.Array) -> tuple[int, ...]:
    """The shape of alpha and beta for a kernel."""
    kept = _KEPT[self.pattern]
    _parts.other_axes(x.ndim, kept)  # refuses a kernel without such an axis
    return tuple(x.shape[axis] for axis in kept)

  def parameters(
    self,
    channels: int,
    x: jax.Array | None = None,
    key: jax.Array | None = None,
  ) -> Mapping[str, jax.Array]:
    """Scale and offset, from the kernel."""
    del key
    if x is None:
      # Without a kernel its input features are unknown; a row has `channels`.
      shape = (channels,) if self.pattern == "row" else ()
      alpha = _parts.initial_magnitude(None, (), shape)
      return {"alpha": alpha, "beta": jnp.zeros(shape, jnp.float32)}
    shape = self._shape(x)
    over = _parts.other_axes(x.ndim, _KEPT[self.pattern])
    wide = jax.lax.stop_gradient(_parts.bounded(x))
    beta = wide.mean(over, keepdims=True)
    alpha = jnp.abs(wide - beta).mean(over, keepdims=True)
    return {"alpha": alpha.reshape(shape), "beta": beta.reshape(shape)}

  @property
  def calibrates(self) -> bool:
    """True: both start from the kernel."""
    return True
