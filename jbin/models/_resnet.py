"""ResNet-18, ResNet-50 (v1.5) and ResNet-20, float or at any pair of bits.

The stride of a bottleneck is on its 3x3 convolution. `bits` names the
quantizers; "float32" and "bfloat16" have none.

References: He et al., 2016 (arXiv 1512.03385); Goyal et al., 2017
(arXiv 1706.02677) for the zero-initialised last norm of a block.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jbin import errors, nn, quantizers
from jbin.models import _base

_BITS = re.compile(
  r"w(?P<w>\d)(a(?P<a>\d)|_weightonly)?(_firstlast(?P<ends>8|float))?"
)


@dataclasses.dataclass(frozen=True)
class BitPair:
  """Widths of weights and activations; None is float."""

  weight: int | None = None
  activation: int | None = None
  ends: BitPair | None = None

  def quantizers(
    self, bounds_at: float
  ) -> dict[str, quantizers.Quantizer | None]:
    """The arguments of a layer that these widths stand for.

    One bit: XNOR-Net weights (mean magnitude of each output channel) on
    BinaryNet signs. More: weights scaled by the largest of each output
    channel, activations by running bounds of the whole tensor, set at
    progress `bounds_at` (floats before).
    """
    weight = activation = None
    if self.weight is not None:
      one = self.weight == 1
      weight = quantizers.xnor() if one else quantizers.absmax(self.weight)
    if self.activation == 1:
      activation = quantizers.sign()
    elif self.activation is not None:
      activation = quantizers.ema_bounds(
        self.activation, start=bounds_at, per_channel=False
      )
    return {"input_quantizer": activation, "kernel_quantizer": weight}

  @property
  def first_last(self) -> BitPair:
    """The widths of the stem and the classifier."""
    return self.ends or self


def parse_bits(text: str) -> BitPair:
  """Reads "float32", "bfloat16" ("bf16"), "w8a8", "w8", "w4a4_firstlast8".

  "w8" and "w8_weightonly" leave activations float; "_firstlast8" gives the
  stem and the classifier 8 bits, "_firstlastfloat" leaves them float.

  Raises:
    errors.UserError: for anything else.
  """
  if text in ("float32", "bfloat16", "bf16", "float"):
    return BitPair()
  found = _BITS.fullmatch(text)
  widths = found and [int(found[g]) for g in ("w", "a") if found[g]]
  if not found or not all(1 <= width <= 8 for width in widths or ()):
    raise errors.UserError(
      f"bits {text!r}: write float32, bfloat16, wW or wWaA, with W and A"
      " from 1 to 8, and perhaps _firstlast8 or _firstlastfloat, as in w8a8"
      " or w4a4_firstlast8"
    )
  activation = int(found["a"]) if found["a"] else None
  ends = None
  if found["ends"] == "8":
    ends = BitPair(8, 8 if activation else None)
  elif found["ends"]:
    ends = BitPair()
  return BitPair(int(found["w"]), activation, ends)


@dataclasses.dataclass(frozen=True)
class _Make:
  """Makes the layers of one network."""

  bits: BitPair
  bounds_at: float
  dtype: Any
  rngs: nnx.Rngs

  def conv(
    self,
    in_features: int,
    features: int,
    size: int,
    stride: int = 1,
    padding: Any = "SAME",
    bits: BitPair | None = None,
  ) -> nn.Conv:
    """A convolution without bias; fan-out initialisation."""
    return nn.Conv(
      in_features,
      features,
      (size, size),
      (stride, stride),
      padding=padding,
      use_bias=False,
      dtype=self.dtype,
      kernel_init=nnx.initializers.variance_scaling(
        2.0, "fan_out", "truncated_normal"
      ),
      rngs=self.rngs,
      **(bits or self.bits).quantizers(self.bounds_at),  # pyright: ignore[reportArgumentType]
    )

  def norm(self, features: int, *, zero: bool = False) -> nn.BatchNorm:
    """A batch norm; `zero` for the last of a block."""
    init = nnx.initializers.zeros if zero else nnx.initializers.ones
    return nn.BatchNorm(
      features,
      momentum=0.9,
      epsilon=1e-5,
      dtype=self.dtype,
      scale_init=init,
      rngs=self.rngs,
    )


class Block(nnx.Module):
  """A residual block: its convolutions, their norms, and the projection."""

  def __init__(
    self,
    in_features: int,
    features: Sequence[int],
    sizes: Sequence[int],
    strides: Sequence[int],
    make: _Make,
  ):
    """Makes the block.

    Args:
      in_features: channels of the input.
      features: channels after each convolution.
      sizes: kernel size of each.
      strides: stride of each.
      make: makes the layers.
    """
    out, stride = features[-1], max(strides)
    if in_features != out or stride != 1:
      self.proj_conv: nn.Conv | None = make.conv(in_features, out, 1, stride)
      self.proj_norm: nn.BatchNorm | None = make.norm(out)
    else:
      self.proj_conv = nnx.data(None)
      self.proj_norm = nnx.data(None)
    widths = [in_features, *features]
    self.convs = nnx.List(
      [
        make.conv(widths[i], widths[i + 1], sizes[i], strides[i])
        for i in range(len(features))
      ]
    )
    last = len(features) - 1
    self.norms = nnx.List(
      [make.norm(f, zero=i == last) for i, f in enumerate(features)]
    )

  def __call__(self, x: jax.Array) -> jax.Array:
    """(N, H, W, in) to (N, H / stride, W / stride, out)."""
    shortcut = x
    if self.proj_conv is not None and self.proj_norm is not None:
      shortcut = self.proj_norm(self.proj_conv(x))
    last = len(self.convs) - 1
    for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
      x = norm(conv(x))
      x = jax.nn.relu(x + shortcut if i == last else x)
    return x


class ResNet(nnx.Module):
  """Stem, four stages, mean, classifier."""

  def __init__(
    self,
    stages: Sequence[int],
    num_classes: int,
    *,
    first_width: int,
    bottleneck: bool,
    small: bool,
    in_features: int,
    make: _Make,
  ):
    """Makes the network; see `resnet50`.

    Args:
      stages: blocks in each stage.
      num_classes: length of the logits.
      first_width: channels of the stem; each stage doubles them.
      bottleneck: three convolutions in a block, else two.
      small: a 3x3 stem of stride 1 without pooling, for small images.
      in_features: channels of the image.
      make: makes the layers.
    """
    ends = make.bits.first_last
    size, stride, edge = (3, 1, 1) if small else (7, 2, 3)
    padding = ((edge, edge), (edge, edge))
    self.small = small
    self.conv = make.conv(
      in_features, first_width, size, stride, padding=padding, bits=ends
    )
    self.norm = make.norm(first_width)
    blocks: list[Block] = []
    channels = first_width
    for stage, count in enumerate(stages):
      width = first_width * 2**stage
      for index in range(count):
        stride = 2 if stage > 0 and index == 0 else 1
        if bottleneck:
          shape = ((width, width, 4 * width), (1, 3, 1), (1, stride, 1))
        else:
          shape = ((width, width), (3, 3), (stride, 1))
        blocks.append(Block(channels, *shape, make))
        channels = shape[0][-1]
    self.blocks = nnx.List(blocks)
    self.head = nn.Linear(
      channels,
      num_classes,
      dtype=make.dtype,
      rngs=make.rngs,
      **ends.quantizers(make.bounds_at),  # pyright: ignore[reportArgumentType]
    )

  def __call__(self, x: jax.Array) -> jax.Array:
    """(N, H, W, C) images to (N, num_classes) logits."""
    x = jax.nn.relu(self.norm(self.conv(x)))
    if not self.small:
      x = nnx.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))  # pyright: ignore[reportArgumentType]
    for block in self.blocks:
      x = block(x)
    return self.head(x.mean((1, 2)))


def _make(bits: str, bounds_at: float, dtype: Any, rngs: nnx.Rngs) -> _Make:
  if bits in ("bfloat16", "bf16"):
    dtype = jnp.bfloat16
  return _Make(parse_bits(bits), bounds_at, dtype, rngs)


@_base.REGISTRY.register
def resnet50(
  bits: str = "float32",
  num_classes: int = 1000,
  *,
  in_features: int = 3,
  bounds_at: float = 0.06,
  dtype: Any = jnp.float32,
  rngs: nnx.Rngs,
) -> ResNet:
  """ResNet-50 v1.5, float or with weights and activations of 1 to 8 bits.

  Args:
    bits: see `parse_bits`: "bfloat16", "w8a8", "w4a4_firstlast8", "w1a1", ...
    num_classes: length of the logits.
    in_features: channels of the image.
    bounds_at: progress at which the bounds of activations of 2 to 8 bits are
      set and quantization of them begins.
    dtype: of the computation ("bfloat16" in `bits` sets it too).
    rngs: for the parameters.

  Raises:
    errors.UserError: if `bits` cannot be read.
  """
  return ResNet(
    (3, 4, 6, 3),
    num_classes,
    first_width=64,
    bottleneck=True,
    small=False,
    in_features=in_features,
    make=_make(bits, bounds_at, dtype, rngs),
  )


@_base.REGISTRY.register
def resnet18(
  bits: str = "float32",
  num_classes: int = 1000,
  *,
  in_features: int = 3,
  bounds_at: float = 0.06,
  dtype: Any = jnp.float32,
  rngs: nnx.Rngs,
) -> ResNet:
  """ResNet-18, float or with weights and activations of 1 to 8 bits.

  Arguments and errors as for `resnet50`.
  """
  return ResNet(
    (2, 2, 2, 2),
    num_classes,
    first_width=64,
    bottleneck=False,
    small=False,
    in_features=in_features,
    make=_make(bits, bounds_at, dtype, rngs),
  )


@_base.REGISTRY.register
def resnet20(
  bits: str = "float32",
  num_classes: int = 10,
  *,
  width: int = 16,
  in_features: int = 3,
  bounds_at: float = 0.06,
  dtype: Any = jnp.float32,
  rngs: nnx.Rngs,
) -> ResNet:
  """ResNet-20 for images of 32 pixels, float or of 1 to 8 bits.

  Arguments and errors as for `resnet50`; `width` is the channels of the stem.
  Differs from the paper in: projections where shapes change (option B).
  """
  return ResNet(
    (3, 3, 3),
    num_classes,
    first_width=width,
    bottleneck=False,
    small=True,
    in_features=in_features,
    make=_make(bits, bounds_at, dtype, rngs),
  )
