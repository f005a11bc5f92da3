"""BNN+: signs with the gradient of SwishSign."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jbin import errors, estimators, references, schedules
from jbin.quantizers import _base


@_base.REGISTRY.register
@references.cites("bnnplus")
@dataclasses.dataclass(frozen=True)
class swish_sign(_base.Quantizer):  # noqa: N801 - named as a function is called
  """The sign with SwishSign's gradient, scale 1 (BNN+; Larq's swish_sign).

  Forward `y = +1 if x >= 0 else -1`; backward, with `u = beta x`,
  `dx = dy * beta * (2 - u tanh(u/2)) / (1 + cosh u)`. At zero: +1.

  Attributes:
    beta: the sharpness; a number or a schedule. 5 is Larq's choice.
    learned: whether beta is a parameter of the tensor, which starts there and
      has the gradient `sum dy * x * (2 - u tanh(u/2)) / (1 + cosh u)`.

  BNN+ adds a regularizer: `jbin.regularizers`. Reference: Darabi et al., 2018
  (arXiv 1812.11800). Differs from Larq in: no NaN at infinity.

  Raises:
    errors.UserError: if a learned beta is given as a schedule.
  """

  bits: int = dataclasses.field(default=1, init=False, repr=False)
  beta: schedules.Hyper = 5.0
  learned: bool = False

  def __post_init__(self) -> None:
    """Checks that what is learned starts from a number."""
    super().__post_init__()
    if self.learned and self.scheduled:
      raise errors.UserError(
        "swish_sign: a learned beta starts from a number; a schedule needs"
        " learned=False"
      )

  def parameters(
    self,
    channels: int,
    x: jax.Array | None = None,
    key: jax.Array | None = None,
  ) -> Mapping[str, jax.Array]:
    """`beta`, if it is learned: shape (1,)."""
    del channels, x, key
    if not self.learned:
      return {}
    start = schedules.value(self.beta, None)
    return {"beta": jnp.full((1,), start, jnp.float32)}

  def quantize(self, x: jax.Array, now: _base.Now) -> _base.Quantized:
    """Signs of `x`, any shape."""
    if self.learned:
      beta = jnp.reshape(now["beta"], (1,) * x.ndim)
    else:
      beta = now.value(self.beta)
    codes = estimators.swish_sign(x, beta)
    return _base.signs(
      codes,
      None,
    )
