"""PokeBNN: a binary ResNet-50-shaped classifier of any width.

Every convolution of the body is W1A1; the stem and the classifier are W8A8,
the squeeze-excite convolutions W4A4. With `quantized=False` it is its own
float twin: the same parameters, no quantizer.

Reference: Zhang et al., PokeBNN, CVPR 2022 (arXiv 2112.00133).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from jbin import bits, errors, nn, quantizers
from jbin.models import _base

STEM_FEATURES = 64  # at every width


@dataclasses.dataclass(frozen=True)
class Recipe:
  """Which quantizers the layers get; `quantized=False` gives none.

  Attributes:
    quantized: False for the float twin.
    weights_from: the progress from which convolution kernels are quantized
      (the classifier's always are).
    bounds_at: the progress at which 4- and 8-bit activation bounds are set.
    bound: B of the binary activations.
    dtype: of the computation.
  """

  quantized: bool = True
  weights_from: float = 0.0
  bounds_at: float = 0.0
  bound: float = 3.0
  dtype: Any = jnp.float32

  def weight(self, p: int) -> quantizers.Quantizer | None:
    """For a convolution's kernel, `p` bits."""
    if not self.quantized:
      return None
    return quantizers.delayed(quantizers.poke_weight(p), self.weights_from)

  def activation(
    self, p: int, *, signed: bool = True
  ) -> quantizers.Quantizer | None:
    """For an input, `p` bits."""
    if not self.quantized:
      return None
    if p == 1:
      return quantizers.poke_activation(self.bound)
    return quantizers.ema_bounds(p, start=self.bounds_at, signed=signed)


def _norm(
  features: int, recipe: Recipe, rngs: nnx.Rngs, *, zero: bool = False
) -> nn.BatchNorm:
  scale = nnx.initializers.zeros if zero else nnx.initializers.ones
  return nn.BatchNorm(
    features,
    momentum=0.9,
    epsilon=1e-5,
    dtype=recipe.dtype,
    scale_init=scale,
    rngs=rngs,
  )


class PokeConv(nnx.Module):
  """Binary convolution with its shortcuts, DPReLU and squeeze-excite."""

  def __init__(
    self,
    in_features: int,
    out_features: int,
    kernel_size: int,
    stride: int,
    *,
    recipe: Recipe,
    last: bool = False,
    rngs: nnx.Rngs,
  ):
    """Makes the layers.

    Args:
      in_features: channels of the input.
      out_features: channels of the output.
      kernel_size: 1 or 3.
      stride: 1 or 2.
      recipe: the quantizers.
      last: whether it is the third of a block, whose first norm starts at 0.
      rngs: for the kernels.
    """
    self.conv = nn.Conv(
      in_features,
      out_features,
      (kernel_size, kernel_size),
      (stride, stride),
      use_bias=False,
      input_quantizer=recipe.activation(1),
      kernel_quantizer=recipe.weight(1),
      dtype=recipe.dtype,
      rngs=rngs,
    )
    self.norm1 = _norm(out_features, recipe, rngs, zero=last)
    self.dprelu = nn.DPReLU(out_features, dtype=recipe.dtype)
    self.se = nn.SqueezeExcite(
      in_features,
      out_features,
      max(in_features // 8, 1),
      input_quantizers=(
        recipe.activation(4),
        recipe.activation(4, signed=False),
      ),
      kernel_quantizer=recipe.weight(4),
      dtype=recipe.dtype,
      rngs=rngs,
    )
    self.norm2 = _norm(out_features, recipe, rngs)

  def __call__(
    self, x: jax.Array, block_input: jax.Array | None = None
  ) -> jax.Array:
    """(N, H, W, in) to (N, H', W', out); `block_input` only for the last."""
    y = self.norm1(self.conv(x))
    y = nn.reshape_add(x, y, "zeropad", "reshape_add_local_residual")
    if block_input is not None:
      y = nn.reshape_add(block_input, y, "tile", "reshape_add_block_residual")
    y = self.dprelu(y)
    y = bits.mark(y * self.se(x), "se_mul")
    return self.norm2(y)


class Bottleneck(nnx.Module):
  """Three PokeConvs: 1x1, 3x3 with the stride, 1x1 to a multiple of F."""

  def __init__(
    self,
    in_features: int,
    features: int,
    stride: int,
    *,
    expansion: int = 4,
    recipe: Recipe,
    rngs: nnx.Rngs,
  ):
    """Makes the three; `features` is F, the output has `expansion` F."""
    keywords: dict[str, Any] = {"recipe": recipe, "rngs": rngs}
    self.conv1 = PokeConv(in_features, features, 1, 1, **keywords)
    self.conv2 = PokeConv(features, features, 3, stride, **keywords)
    self.conv3 = PokeConv(
      features, expansion * features, 1, 1, last=True, **keywords
    )

  def __call__(self, x: jax.Array) -> jax.Array:
    """(N, H, W, in) to (N, H / stride, W / stride, expansion F)."""
    return self.conv3(self.conv2(self.conv1(x)), x)


class PokeInit(nnx.Module):
  """The stem: 8-bit, 4x4 with stride 4 to 32 channels, grouped 3x3 to 64."""

  def __init__(self, in_features: int, *, recipe: Recipe, rngs: nnx.Rngs):
    """Makes the stem for images of `in_features` channels."""
    keywords: dict[str, Any] = {
      "use_bias": False,
      "input_quantizer": recipe.activation(8),
      "kernel_quantizer": recipe.weight(8),
      "dtype": recipe.dtype,
      "rngs": rngs,
    }
    self.conv = nn.Conv(
      in_features, 32, (4, 4), (4, 4), padding="VALID", **keywords
    )
    self.norm1 = _norm(32, recipe, rngs)
    self.dprelu1 = nn.DPReLU(32, dtype=recipe.dtype)
    self.conv_group = nn.Conv(
      32, STEM_FEATURES, (3, 3), feature_group_count=32, **keywords
    )
    self.norm2 = _norm(STEM_FEATURES, recipe, rngs)
    self.dprelu2 = nn.DPReLU(STEM_FEATURES, dtype=recipe.dtype)

  def __call__(self, x: jax.Array) -> jax.Array:
    """(N, H, W, C) to (N, H / 4, W / 4, 64)."""
    if min(x.shape[1:3]) < 4:
      raise errors.UserError(
        f"pokebnn: the stem 'patch4' needs images of 4x4 pixels or more, got"
        f" {x.shape}; take larger ones, or stem='conv3'"
      )
    x = self.dprelu1(self.norm1(self.conv(x)))
    return self.dprelu2(self.norm2(self.conv_group(x)))


class SmallInit(nnx.Module):
  """A stem for small images: one 8-bit 3x3 convolution of stride 1 to 64."""

  def __init__(self, in_features: int, *, recipe: Recipe, rngs: nnx.Rngs):
    """Makes the stem for images of `in_features` channels."""
    self.conv = nn.Conv(
      in_features,
      STEM_FEATURES,
      (3, 3),
      use_bias=False,
      input_quantizer=recipe.activation(8),
      kernel_quantizer=recipe.weight(8),
      dtype=recipe.dtype,
      rngs=rngs,
    )
    self.norm = _norm(STEM_FEATURES, recipe, rngs)
    self.dprelu = nn.DPReLU(STEM_FEATURES, dtype=recipe.dtype)

  def __call__(self, x: jax.Array) -> jax.Array:
    """(N, H, W, C) to (N, H, W, 64)."""
    return self.dprelu(self.norm(self.conv(x)))


STEMS = {"patch4": PokeInit, "conv3": SmallInit}


class PokeBNN(nnx.Module):
  """Stem, four stages of bottlenecks, mean, classifier."""

  def __init__(
    self,
    features: Sequence[int],
    stages: Sequence[int],
    num_classes: int,
    *,
    expansion: int,
    stem: str,
    in_features: int,
    remat: nn.Remat,
    recipe: Recipe,
    rngs: nnx.Rngs,
  ):
    """Makes the network; see `pokebnn`."""
    nn.check_remat(remat)
    self.remat: nn.Remat = remat
    self.stem = STEMS[stem](in_features, recipe=recipe, rngs=rngs)
    blocks: list[Bottleneck] = []
    channels = STEM_FEATURES
    for stage, (count, width) in enumerate(zip(stages, features, strict=True)):
      for index in range(count):
        stride = 2 if stage > 0 and index == 0 else 1
        blocks.append(
          Bottleneck(
            channels,
            width,
            stride,
            expansion=expansion,
            recipe=recipe,
            rngs=rngs,
          )
        )
        channels = expansion * width
    self.blocks = nnx.List(blocks)
    self.head = nn.Linear(
      channels,
      num_classes,
      input_quantizer=recipe.activation(8),
      # The switch to quantized weights does not reach the classifier.
      kernel_quantizer=dataclasses.replace(recipe, weights_from=0.0).weight(8),
      dtype=recipe.dtype,
      rngs=rngs,
    )

  def __call__(self, x: jax.Array) -> jax.Array:
    """(N, H, W, C) images to (N, num_classes) logits."""
    x = self.stem(x)
    for block in self.blocks:
      x = nn.run(block, x, remat=self.remat)
    x = bits.mark(x, "pokebnn_global_pool").mean((1, 2))
    return self.head(x)


@_base.REGISTRY.register
def pokebnn(
  width: float = 1.0,
  num_classes: int = 1000,
  *,
  stages: Sequence[int] = (3, 4, 6, 3),
  features: Sequence[int] = (64, 128, 256, 512),
  expansion: int = 4,
  stem: Literal["patch4", "conv3"] = "patch4",
  in_features: int = 3,
  quantized: bool = True,
  weights_from: float = 0.0,
  bounds_at: float = 0.06,
  bound: float = 3.0,
  remat: nn.Remat = "none",
  dtype: Any = jnp.float32,
  rngs: nnx.Rngs,
) -> PokeBNN:
  """PokeBNN at any width: body W1A1, squeeze-excite W4A4, ends W8A8.

  Args:
    width: multiplies `features` (cut to integers); the paper has 0.5 to 2.0.
    num_classes: length of the logits.
    stages: bottlenecks in each stage; all stages but the first halve H and W.
    features: F of each stage; its output has `expansion` F channels.
    expansion: 4 in the paper.
    stem: "patch4", the paper's, or "conv3", one convolution of stride 1 for
      images of 32 pixels and less (not in the paper).
    in_features: channels of the image.
    quantized: False for the float twin.
    weights_from: progress from which convolution kernels are quantized; the
      paper's recipe has 7800 / 124800.
    bounds_at: progress at which the 4- and 8-bit activation bounds are set and
      those activations quantized; the paper's recipe has 7500 / 124800. Not 0:
      statistics start at 0 and need steps to reach the true range.
    bound: B of the binary activations: window and magnitude.
    remat: "none", "full" or "dots": what the backward pass computes again of
      each bottleneck; see `jbin.nn.scan`.
    dtype: of the computation; the paper has bfloat16.
    rngs: for the parameters.

  Raises:
    errors.UserError: for an unknown stem or `remat`, or a width that leaves no
      channels.
  """
  if stem not in STEMS:
    raise errors.UnknownName("stem", stem, STEMS)
  finite = math.isfinite(width)
  scaled = [int(width * count) if finite else 0 for count in features]
  if min(scaled) < 1 or len(scaled) != len(stages):
    raise errors.UserError(
      f"pokebnn: width {width} of features {tuple(features)} for stages"
      f" {tuple(stages)} leaves {scaled}; every stage needs at least one"
    )
  recipe = Recipe(quantized, weights_from, bounds_at, bound, dtype)
  return PokeBNN(
    scaled,
    stages,
    num_classes,
    expansion=expansion,
    stem=stem,
    in_features=in_features,
    remat=remat,
    recipe=recipe,
    rngs=rngs,
  )
