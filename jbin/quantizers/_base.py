"""A low-bit tensor is codes times scale; a quantizer makes one from floats."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jbin import bits as bits_lib, errors, registry, schedules

REGISTRY = registry.Registry("quantizer")

_LARGE = 2**20  # elements


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Quantized:
  """What a quantizer makes of a tensor.

  `value` carries the gradient: it is `codes * scale` in floating point, and
  differentiating it gives what the paper says. `codes` and `scale` carry none:
  they are what a product may compute with in place of `value`.

  Attributes:
    value: floating, the shape and dtype of the input.
    codes: small integers in the narrowest exact type, tagged with their bits;
      None where the value is not codes times scale right now (a quantizer that
      a schedule may switch off).
    scale: float32, broadcasts with `codes` (same rank); None means 1.
    bits: the width, 1 to 8.
    levels: the least and greatest code.
  """

  value: jax.Array
  codes: jax.Array | None
  scale: jax.Array | None
  bits: int = dataclasses.field(metadata={"static": True})
  levels: tuple[int, int] = dataclasses.field(metadata={"static": True})

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


@jax.custom_vjp
def scale_through(codes: jax.Array, scale: jax.Array) -> jax.Array:
  """`codes * scale`, the codes' gradient passing as if the scale were 1.

  Forward `y = codes * scale`, in float32, cast to the dtype of `codes`;
  backward `dcodes = dy`, `dscale = 0`. `scale` broadcasts with `codes`.
  """
  return (codes * scale).astype(codes.dtype)


def _scale_forward(
  codes: jax.Array, scale: jax.Array
) -> tuple[jax.Array, jax.Array]:
  return scale_through(codes, scale), scale


def _scale_backward(
  scale: jax.Array, g: jax.Array
) -> tuple[jax.Array, jax.Array]:
  return g, jnp.zeros_like(scale)


scale_through.defvjp(_scale_forward, _scale_backward)


def mean_magnitude(x: jax.Array, over: Sequence[int]) -> jax.Array:
  """Mean of |x| over some axes, kept with length 1; float32, no gradient.

  In a large kernel groups of eight rows are reduced by `|a| + |b|` first: XLA
  on CPU writes |x| to memory before it sums it, but not for a combiner of our
  own. (All rows at once would not do: such a reduction cannot be split over
  devices, and an axis of eight never is.)
  """
  wide = jax.lax.stop_gradient(x).astype(jnp.float32)
  count = math.prod(x.shape[axis] for axis in over)
  if 0 in over and x.size >= _LARGE and x.shape[0] % 8 == 0:
    wide = jax.lax.reduce(
      wide.reshape(-1, 8, *x.shape[1:]),
      np.float32(0),
      lambda a, b: jnp.abs(a) + jnp.abs(b),
      (1,),
    )
  return jnp.abs(wide).sum(tuple(over), keepdims=True) / count


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
  keep_scale: bool = False,
  exact: bool = True,
) -> Quantized:
  """Puts codes and scale together.

  Args:
    codes: floating, from an estimator, so they carry the gradient.
    scale: float32, broadcasts with `codes` (same rank); None for 1.
    bits: the width of the codes.
    levels: the least and greatest code.
    dtype: of the value; None for that of `codes`.
    keep_scale: whether the gradient of `codes` carries the factor `scale`
      (plain multiplication) or passes as if the scale were 1.
    exact: whether every code is one of the levels (a ternary sign(0) = 0 is
      not a bit); if not, products use the value.
  """
  codes = bits_lib.tag(codes, bits)
  if scale is None:
    value = codes
  elif keep_scale:
    value = codes * scale
  else:
    value = scale_through(codes, scale)
  if dtype is not None:
    value = value.astype(dtype)
  narrow = None
  if exact:
    narrow = jax.lax.stop_gradient(codes).astype(narrowest(levels))
  constant = None if scale is None else jax.lax.stop_gradient(scale)
  return Quantized(value, narrow, constant, bits, levels)


def gate(active: jax.Array, on: Quantized, off: jax.Array) -> Quantized:
  """`on` where the traced scalar `active` is true, else the float `off`.

  The result has no codes (it may be floats), and its tag says the bits it has
  when on: cost reports what is configured, not what is active yet.
  """
  value = bits_lib.tag(jnp.where(active, on.value, off), on.bits)
  return dataclasses.replace(on, value=value, codes=None, scale=None)


def other_axes(ndim: int, kept: Sequence[int]) -> tuple[int, ...]:
  """The axes of an array of rank `ndim` that are not `kept`.

  Raises:
    errors.UserError: if the array has no such axis.
  """
  if any(not -ndim <= axis < ndim for axis in kept):
    raise errors.UserError(
      f"a quantizer's axes {tuple(kept)} are not all axes of an array of rank"
      f" {ndim}; count from 0, or from -1 backwards"
    )
  keep = {axis % ndim for axis in kept}
  return tuple(axis for axis in range(ndim) if axis not in keep)


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

  @abc.abstractmethod
  def __call__(
    self,
    x: jax.Array,
    *,
    progress: jax.Array | None = None,
    **variables: jax.Array,
  ) -> Quantized:
    """Quantizes `x`, floating, of any shape that the quantizer's axes fit."""

  def parameters(self, channels: int) -> Mapping[str, jax.Array]:
    """Initial values of what is learned, for `channels` on the last axis."""
    del channels
    return {}

  def statistics(self, channels: int) -> Mapping[str, jax.Array]:
    """Initial values of what is measured, for `channels` on the last axis."""
    del channels
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
  def scheduled(self) -> bool:
    """Whether a hyper-parameter is a schedule, so that progress is needed."""
    return schedules.is_scheduled(
      *(getattr(self, field.name) for field in dataclasses.fields(self))
    )
