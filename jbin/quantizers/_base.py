"""A low-bit tensor is codes times scale; a quantizer makes one from floats."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jbin import (
  bits as bits_lib,
  errors,
  estimators,
  registry,
  schedules,
  shards,
)
from jbin.quantizers import _parts

REGISTRY = registry.Registry("quantizer")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Quantized:
  """What a quantizer makes of a tensor.

  `value` carries the gradient: it is `codes * scale + offset` in floating
  point, and differentiating it gives what the paper says. `codes`, `scale` and
  `offset` carry none: they are what a product may compute with in place of
  `value`.

  Attributes:
    value: floating, the shape and dtype of the input.
    codes: small integers in the narrowest exact type, tagged with their bits;
      None where the value is not codes times scale right now (a quantizer that
      a schedule may switch off).
    scale: float32, broadcasts with `codes` (same rank); None means 1.
    bits: the width, 1 to 8.
    levels: the least and greatest code.
    offset: float32, broadcasts with `codes`; what is added after the scale.
      None means 0. A product takes the value of a tensor with an offset.
    factors: float32 arrays whose product is the scale, where it varies along
      more axes than each of them; None: the scale is all there is.
    packing: how the bits of a tensor that is split over a mesh are gathered,
      where a product is to do that; None: the tensor is as it is.
  """

  value: jax.Array
  codes: jax.Array | None
  scale: jax.Array | None
  bits: int = dataclasses.field(metadata={"static": True})
  levels: tuple[int, int] = dataclasses.field(metadata={"static": True})
  offset: jax.Array | None = None
  factors: tuple[jax.Array, ...] | None = None
  packing: shards.Packing | None = dataclasses.field(
    default=None, metadata={"static": True}
  )

  @property
  def shape(self) -> tuple[int, ...]:
    """The tensor's shape."""
    return self.value.shape

  @property
  def ndim(self) -> int:
    """The tensor's rank."""
    return self.value.ndim

  @property
  def dtype(self) -> Any:
    """The dtype of `value`."""
    return self.value.dtype

  def __array__(
    self, dtype: Any = None, copy: bool | None = None
  ) -> np.ndarray:
    """The value, for numpy; so a result can be printed and compared."""
    del copy
    return np.asarray(self.value, dtype=dtype)

  def __jax_array__(self) -> jax.Array:
    """The value, for jnp functions."""
    return self.value


def narrowest(levels: tuple[int, int]) -> Any:
  """The narrowest dtype that holds every code exactly."""
  low, high = levels
  if low >= -128 and high <= 127:
    return jnp.int8
  return jnp.bfloat16 if max(-low, high) <= 256 else jnp.float32


def make(
  codes: jax.Array,
  scale: jax.Array | None,
  *,
  bits: int,
  levels: tuple[int, int],
  dtype: Any = None,
  offset: jax.Array | None = None,
  factors: tuple[jax.Array, ...] | None = None,
  keep_scale: bool = False,
  exact: bool = True,
) -> Quantized:
  """Puts codes, scale and offset together.

  Args:
    codes: floating, from an estimator, so they carry the gradient.
    scale: float32, broadcasts with `codes` (same rank); None for 1.
    bits: the width of the codes.
    levels: the least and greatest code.
    dtype: of the value; None for that of `codes`.
    offset: added after the scale; its gradient flows. None for 0.
    factors: whose product is the scale, of bits with `keep_scale`; None where
      the scale is as small as they are.
    keep_scale: whether the gradient of `codes` carries the factor `scale`
      (plain multiplication) or passes as if the scale were 1.
    exact: whether every code is one of the levels (a ternary sign(0) = 0 is
      not a bit); if not, products use the value.
  """
  codes = bits_lib.tag(codes, bits)
  if scale is None:
    value = codes
  elif keep_scale and exact and levels == (-1, 1) and bits == 1:
    value = _parts.scale_signs(codes, *(factors or (scale,)))
  elif keep_scale:
    value = codes * scale
  else:
    value = _parts.scale_through(codes, scale)
  if offset is not None:
    value = value + offset
  if dtype is not None:
    value = value.astype(dtype)
  if offset is not None:
    value = bits_lib.tag(value, bits)  # the sum ended the codes' tag
  if not exact:
    return Quantized(value, None, None, bits, levels)
  narrow = jax.lax.stop_gradient(codes).astype(narrowest(levels))
  scale, offset, factors = jax.lax.stop_gradient((scale, offset, factors))
  return Quantized(value, narrow, scale, bits, levels, offset, factors)


def signs(
  codes: jax.Array,
  scale: jax.Array | None = None,
  *,
  zero: float = 1.0,
  dtype: Any = None,
  offset: jax.Array | None = None,
  factors: tuple[jax.Array, ...] | None = None,
  keep_scale: bool = False,
) -> Quantized:
  """`make` of one bit: codes of -1 and +1.

  Args:
    codes: signs, from an estimator.
    scale: as in `make`, like the others.
    zero: what the estimator gives at 0; other than -1 and +1 it is no bit, and
      the result has no codes.
    dtype: of the value.
    offset: added after the scale.
    factors: as in `make`.
    keep_scale: whether the gradient of `codes` carries the scale.
  """
  return make(
    codes,
    scale,
    bits=1,
    levels=(-1, 1),
    dtype=dtype,
    offset=offset,
    factors=factors,
    keep_scale=keep_scale,
    exact=abs(zero) == 1,
  )


def without_codes(
  value: jax.Array, *, bits: int, levels: tuple[int, int]
) -> Quantized:
  """A tensor whose levels are no multiples of one step: a value with a tag.

  Args:
    value: floating, carries the gradient.
    bits: the width.
    levels: the least and greatest code that a packer would give it.
  """
  return Quantized(bits_lib.tag(value, bits), None, None, bits, levels)


def gate(active: jax.Array, on: Quantized, off: jax.Array) -> Quantized:
  """`on` where the traced scalar `active` is true, else the float `off`.

  The result has no codes (it may be floats), and its tag says the bits it has
  when on: cost reports what is configured, not what is active yet.
  """
  value = bits_lib.tag(jnp.where(active, on.value, off), on.bits)
  return dataclasses.replace(
    on, value=value, codes=None, scale=None, offset=None, factors=None
  )


@dataclasses.dataclass(frozen=True)
class Now:
  """What a call is told beside the tensor.

  Attributes:
    progress: scalar in [0, 1]; None where nothing is scheduled.
    variables: what the quantizer learns and measures, by name.
  """

  progress: jax.Array | None
  variables: Mapping[str, Any]

  def value(self, hyper: schedules.Hyper) -> Any:
    """A hyper-parameter's value now."""
    return schedules.value(hyper, self.progress)

  def __getitem__(self, name: str) -> jax.Array:
    """What is learned or measured under that name."""
    return self.variables[name]

  @property
  def key(self) -> jax.Array | None:
    """For the draws of a stochastic quantizer; None in evaluation."""
    return self.variables.get("key")

  @property
  def keep(self) -> estimators.Keep:
    """What a window's backward pass keeps: nothing of a stored tensor."""
    return "input" if self.variables.get("stored") else "bits"


@dataclasses.dataclass(frozen=True)
class Quantizer(abc.ABC):
  """A pure function from floats to `Quantized`, with its hyper-parameters.

  A subclass is a frozen dataclass: it compares, hashes and prints as its
  hyper-parameters. One that has learned parameters or statistics names them
  in `parameters` and `statistics`; they are arguments of the call, and
  `nn.Quantizer` is the module that holds them.

  Attributes:
    bits: the width of the codes.
    widths: the least and greatest width that the method has.
  """

  bits: int
  widths: ClassVar[tuple[int, int]] = (1, 8)

  def __init_subclass__(cls, **kwargs: Any) -> None:
    """Gives the subclass this class's `repr`; `dataclass` then leaves it."""
    super().__init_subclass__(**kwargs)
    cls.__repr__ = Quantizer.__repr__

  def __repr__(self) -> str:
    """The call that makes it, without arguments that are the defaults."""
    given = [
      f"{field.name}={getattr(self, field.name)!r}"
      for field in dataclasses.fields(self)
      if field.init and getattr(self, field.name) != field.default
    ]
    return f"{type(self).__name__}({', '.join(given)})"

  def __post_init__(self) -> None:
    """Checks the width; a list of axes, as JSON has it, becomes a tuple."""
    for field in dataclasses.fields(self):
      item = getattr(self, field.name)
      if isinstance(item, list):
        object.__setattr__(self, field.name, tuple(item))
    low, high = self.widths
    if not isinstance(self.bits, int) or not low <= self.bits <= high:
      raise errors.UserError(
        f"{type(self).__name__}: bits must be an integer from {low} to {high},"
        f" got {self.bits!r}"
      )

  def __call__(
    self,
    x: jax.Array,
    *,
    progress: jax.Array | None = None,
    **variables: Any,
  ) -> Quantized:
    """Quantizes `x`, floating, of any shape that the quantizer's axes fit.

    What is measured of `x` (means, ends) sees a magnitude beyond 1e15 as that,
    or as the quantizer says, so that infinities make no NaN.

    Args:
      x: the tensor.
      progress: scalar in [0, 1]; needed where `scheduled`.
      **variables: what `parameters` and `statistics` name, and, while a
        `stochastic` quantizer trains, `key`. `stored=True` says that `x` is a
        parameter, so that nothing of it need be kept for the backward pass.
    """
    return self.quantize(x, Now(progress, variables))

  @abc.abstractmethod
  def quantize(self, x: jax.Array, now: Now) -> Quantized:
    """The method itself: what a member writes; users call the quantizer."""

  def parameters(
    self,
    channels: int,
    x: jax.Array | None = None,
    key: jax.Array | None = None,
  ) -> Mapping[str, jax.Array]:
    """Initial values of what is learned.

    Args:
      channels: length of the tensor's last axis.
      x: the tensor, where it is at hand: a kernel always, an activation in
        `nn.calibrate`. None: a standard normal one is assumed.
      key: for a `seeded` quantizer.
    """
    del channels, x, key
    return {}

  def statistics(
    self, channels: int, x: jax.Array | None = None
  ) -> Mapping[str, jax.Array]:
    """Initial values of what is measured; arguments as in `parameters`."""
    del channels, x
    return {}

  def update(
    self,
    x: jax.Array,
    *,
    progress: jax.Array | None,
    **statistics: jax.Array,
  ) -> Mapping[str, jax.Array]:
    """The statistics after a training step has seen `x`; used in that step."""
    del x, progress
    return statistics

  @property
  def window(self) -> schedules.Hyper | None:
    """Half the width about 0 where a latent weight gets a gradient.

    None where it gets one everywhere, or where that is not a question of the
    weight alone.
    """
    return None

  @property
  def seeded(self) -> bool:
    """Whether `parameters` draws: it then needs a key."""
    return False

  @property
  def calibrates(self) -> bool:
    """Whether `parameters` looks at the tensor, as `nn.calibrate` lets it."""
    return False

  @property
  def stochastic(self) -> bool:
    """Whether a training call draws: it then gets a `key`."""
    return False

  @property
  def scheduled(self) -> bool:
    """Whether a hyper-parameter is a schedule, so that progress is needed."""
    return schedules.is_scheduled(
      *(getattr(self, field.name) for field in dataclasses.fields(self))
    )


def required_key(quantizer: Quantizer, key: jax.Array | None) -> jax.Array:
  """The key, for `parameters` of a `seeded` quantizer; an error without."""
  if key is None:
    raise errors.UserError(
      f"{quantizer!r} draws its initial values; give parameters(..., key=...)"
    )
  return key


def drawn(
  quantizer: Quantizer, key: jax.Array | None, channels: int
) -> jax.Array:
  """One value a channel, uniform in [0, 1), for a `seeded` quantizer."""
  key = required_key(quantizer, key)
  return jax.random.uniform(key, (channels,), jnp.float32)
