"""The parts of residual networks, with the choices that papers make."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from jbin import errors, nn


def _same(x: jax.Array) -> jax.Array:
  return x


ACTIVATIONS: dict[str, Callable[[int, Any], Callable[[jax.Array], Any]]] = {
  "relu": lambda features, dtype: jax.nn.relu,
  "hardtanh": lambda features, dtype: jax.nn.hard_tanh,
  "prelu": lambda features, dtype: nnx.PReLU(param_dtype=jnp.float32),
  "rprelu": lambda features, dtype: nn.RPReLU(features, dtype=dtype),
  "maxout": lambda features, dtype: nn.Maxout(features, dtype=dtype),
  "dprelu": lambda features, dtype: nn.DPReLU(features, dtype=dtype),
  "none": lambda features, dtype: _same,
}
"""Name -> (channels, dtype) -> a function or module."""

ORDERS = ("conv_norm_act", "conv_act_norm")
SHORTCUTS = ("block", "conv")
PROJECTIONS = ("conv", "pool_pad", "slice_pad")
INITS = ("fan_out", "fan_in")


@dataclasses.dataclass(frozen=True)
class Structure:
  """What residual networks of the same depth differ in.

  Attributes:
    activation: "relu", "hardtanh" (most binary networks), "prelu" (one slope),
      "rprelu" (ReActNet), "maxout" (AdaBin), "dprelu" (PokeBNN) or "none".
    order: "conv_norm_act", the shortcut added before the activation; or
      "conv_act_norm" (ReSTE), the shortcut added last.
    shortcut: around each "block" (He et al.) or each "conv" (Bi-Real Net).
    projection: the shortcut where shapes change: "conv", 1x1 and a norm;
      "pool_pad", mean of 2x2 and channels of zeros on both sides (ReCU, BiPer);
      "slice_pad", every second pixel and those zeros (ReSTE, He's option A).
    stem_activation: whether the stem has one.
    head_norm: whether a norm stands before the classifier.
    zero_gamma: whether the last norm of a block starts at 0.
    init: kernels are normal with variance 2 / "fan_out" or 2 / "fan_in".
  """

  activation: str = "relu"
  order: str = "conv_norm_act"
  shortcut: str = "block"
  projection: str = "conv"
  stem_activation: bool = True
  head_norm: bool = False
  zero_gamma: bool = True
  init: Literal["fan_out", "fan_in"] = "fan_out"

  def __post_init__(self) -> None:
    """Looks the names up."""
    for key, known in (
      ("activation", ACTIVATIONS),
      ("order", ORDERS),
      ("shortcut", SHORTCUTS),
      ("projection", PROJECTIONS),
      ("init", INITS),
    ):
      if getattr(self, key) not in known:
        raise errors.UnknownName(key, getattr(self, key), known)


@dataclasses.dataclass(frozen=True)
class Make:
  """Makes the layers of one network."""

  structure: Structure
  dtype: Any
  rngs: nnx.Rngs

  def conv(
    self, in_features: int, features: int, size: int, stride: int
  ) -> nn.Conv:
    """A convolution without bias; a large one is padded on all sides alike."""
    edge = (size // 2, size // 2)
    return nn.Conv(
      in_features,
      features,
      (size, size),
      (stride, stride),
      padding=(edge, edge) if size > 3 else "SAME",
      use_bias=False,
      dtype=self.dtype,
      kernel_init=nnx.initializers.variance_scaling(
        2.0, self.structure.init, "normal"
      ),
      rngs=self.rngs,
    )

  def norm(self, features: int, *, zero: bool = False) -> nn.BatchNorm:
    """A batch norm whose scale starts at 1, or at 0."""
    return nn.BatchNorm(
      features,
      momentum=0.9,
      epsilon=1e-5,
      dtype=self.dtype,
      scale_init=nnx.initializers.zeros if zero else nnx.initializers.ones,
      rngs=self.rngs,
    )

  def activation(self, features: int) -> Callable[[jax.Array], Any]:
    """A function, or a module with parameters for each channel."""
    return ACTIVATIONS[self.structure.activation](features, self.dtype)


class Unit(nnx.Module):
  """A convolution with its norm and its activation."""

  def __init__(
    self,
    in_features: int,
    features: int,
    size: int,
    stride: int,
    make: Make,
    *,
    zero: bool = False,
    activation: bool = True,
  ):
    """Makes the layers.

    Args:
      in_features: channels of the input.
      features: channels of the output.
      size: of the kernel.
      stride: of the convolution.
      make: makes them.
      zero: whether the norm's scale starts at 0.
      activation: False for none.
    """
    self.norm_first = make.structure.order == "conv_norm_act"
    self.conv = make.conv(in_features, features, size, stride)
    self.norm = make.norm(features, zero=zero)
    self.activation = make.activation(features) if activation else _same

  def __call__(
    self, x: jax.Array, shortcut: jax.Array | None = None
  ) -> jax.Array:
    """(N, H, W, in) to (N, H / stride, W / stride, features)."""
    y = self.conv(x)
    y = self.norm(y if self.norm_first else self.activation(y))
    if shortcut is not None:
      y = y + shortcut
    return self.activation(y) if self.norm_first else y


class Shortcut(nnx.Module):
  """The input as it is, or brought to another shape."""

  def __init__(self, in_features: int, features: int, stride: int, make: Make):
    """Makes the projection if one is needed; arguments as for `Unit`."""
    changes = in_features != features or stride != 1
    self.kind = make.structure.projection if changes else "none"
    self.stride = stride
    self.extra = features - in_features
    if self.kind == "conv":
      self.conv = make.conv(in_features, features, 1, stride)
      self.norm = make.norm(features)
    elif self.extra < 0:
      raise errors.UserError(
        f"projection {self.kind!r} adds channels and cannot take {-self.extra}"
        f" of {in_features} away; take projection='conv'"
      )

  def __call__(self, x: jax.Array) -> jax.Array:
    """(N, H, W, in) to (N, H / stride, W / stride, features)."""
    if self.kind == "none":
      return x
    if self.kind == "conv":
      return self.norm(self.conv(x))
    if self.kind == "slice_pad":
      x = x[:, :: self.stride, :: self.stride]
    elif self.stride > 1:
      window = (self.stride, self.stride)
      x = nnx.avg_pool(x, window, window, "SAME", count_include_pad=False)
    before = self.extra // 2
    channels = (before, self.extra - before)
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), channels))


class Block(nnx.Module):
  """Units with one shortcut around them all, or one around each."""

  def __init__(
    self,
    in_features: int,
    features: Sequence[int],
    sizes: Sequence[int],
    strides: Sequence[int],
    make: Make,
  ):
    """Makes the layers.

    Args:
      in_features: channels of the input.
      features: channels after each convolution.
      sizes: kernel size of each.
      strides: stride of each.
      make: makes the layers.
    """
    widths, last = [in_features, *features], len(features) - 1
    self.units = nnx.List(
      [
        Unit(
          widths[i],
          widths[i + 1],
          sizes[i],
          strides[i],
          make,
          zero=make.structure.zero_gamma and i == last,
        )
        for i in range(len(features))
      ]
    )
    if make.structure.shortcut == "block":
      steps = [(in_features, features[-1], max(strides))]
    else:
      steps = list(zip(widths, widths[1:], strides, strict=False))
    self.shortcuts = nnx.List([Shortcut(*step, make) for step in steps])

  def __call__(self, x: jax.Array) -> jax.Array:
    """(N, H, W, in) to (N, H / stride, W / stride, out)."""
    if len(self.shortcuts) == len(self.units):
      for unit, shortcut in zip(self.units, self.shortcuts, strict=True):
        x = unit(x, shortcut(x))
      return x
    around = self.shortcuts[0](x)
    for unit in self.units[:-1]:
      x = unit(x)
    return self.units[-1](x, around)
