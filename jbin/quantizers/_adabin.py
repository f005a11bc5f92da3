"""AdaBin: two values wherever they fit best, for weights and activations."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from jbin import errors, estimators, references, schedules
from jbin.quantizers import _base, _parts

Form = Literal["code", "paper"]
_SHARPER = schedules.exponential(1e-3, 10.0)


@_base.REGISTRY.register
@references.cites("adabin")
@dataclasses.dataclass(frozen=True)
class adabin_weight(_base.Quantizer):  # noqa: N801 - called like a function
  """Weights at mean - deviation and mean + deviation of a channel (AdaBin).

  `m = mean w`, `s = sd w` (of the population) over all axes but the last,
  `v = (w - m) / s`. Forward `y = s * sign(v) + m`; backward
  `dv = dy * s * k t (1 - tanh(t v)^2)`, on through v, s and m, all of which
  are differentiated. At `v = 0`: m + s. A constant channel is its mean, whose
  gradient flows; s gets none.

  Attributes:
    t: the sharpness of the gradient; a number or a schedule. The code's goes
      from 0.001 to 10.
    k: its height; None for `max(1 / t, 1)`.
    zero: the sign of 0. PyTorch code has 0 there, which is no bit.

  Products take the value: m is an offset. Reference: Tu et al., 2022
  (arXiv 2208.08084). Differs from the code in: constant channels (the code
  divides 0 by 0), and sign(0).
  """

  bits: int = dataclasses.field(default=1, init=False, repr=False)
  t: schedules.Hyper = _SHARPER
  k: schedules.Hyper | None = None
  zero: float = 1.0

  def quantize(self, x: jax.Array, now: _base.Now) -> _base.Quantized:
    """Quantizes a kernel `x` whose last axis is the output channel."""
    wide = _parts.bounded(x)
    over = _parts.other_axes(x.ndim, (-1,))
    codes = estimators.ede_sign(
      _parts.standardize(wide, over, ddof=0),
      now.value(self.t),
      k=None if self.k is None else now.value(self.k),
      zero=self.zero,
    )
    return _base.signs(
      codes,
      _parts.spread(wide, over, ddof=0),
      dtype=x.dtype,
      offset=wide.mean(over, keepdims=True),
      keep_scale=True,
      zero=self.zero,
    )


@_base.REGISTRY.register
@references.cites("adabin")
@dataclasses.dataclass(frozen=True)
class adabin_activation(_base.Quantizer):  # noqa: N801 - called like a function
  """Activations on two learned values (AdaBin).

  `v = (x - b) / a`. Forward `y = a * (sign(v) + b)` ("code") or
  `y = a * sign(v) + b` ("paper"); backward `dv = dy * a * max(0, 2 - 2|v|)`,
  on through v, and a and b where they stand in y. At `v = 0`: that of +1.

  Attributes:
    form: "code": what the authors ran, so what their figures are of, and the
      default. "paper": b, which is where the sign turns, is also the middle of
      both values. They agree while b = 0 or a = 1, so at the start.
    zero: the sign of 0. PyTorch code has 0 there, which is no bit.

  Learned: `a` (), 1 at first; `b` (), 0. Both are of the whole layer; a must
  stay away from 0. Products take the value: b is an offset. Reference: Tu et
  al., 2022 (arXiv 2208.08084). Differs from the code in sign(0); from the
  paper in `form`.
  """

  bits: int = dataclasses.field(default=1, init=False, repr=False)
  form: Form = "code"
  zero: float = 1.0

  def __post_init__(self) -> None:
    """Checks the form."""
    super().__post_init__()
    if self.form not in get_args(Form):
      raise errors.UnknownName("form", self.form, get_args(Form))

  def parameters(
    self,
    channels: int,
    x: jax.Array | None = None,
    key: jax.Array | None = None,
  ) -> Mapping[str, jax.Array]:
    """One and zero."""
    del channels, x, key
    return {"a": jnp.ones((), jnp.float32), "b": jnp.zeros((), jnp.float32)}

  def quantize(self, x: jax.Array, now: _base.Now) -> _base.Quantized:
    """Quantizes activations `x`, any shape."""
    a, b = (jnp.reshape(now[n], (1,) * x.ndim) for n in ("a", "b"))
    return _base.signs(
      estimators.approx_sign((_parts.bounded(x) - b) / a, zero=self.zero),
      a,
      dtype=x.dtype,
      offset=a * b if self.form == "code" else b,
      keep_scale=True,
      zero=self.zero,
    )
