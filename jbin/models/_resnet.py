"""ResNet-18, -34, -50 (v1.5) and -20, with the choices of binary networks.

They are float networks: rules make them low-bit (`jbin.quantize`, or the key
`rules` of a config). The stride of a bottleneck is on its 3x3 convolution.

References: He et al., 2016 (arXiv 1512.03385); Goyal et al., 2017
(arXiv 1706.02677) for the zero-initialised last norm of a block. Differs from
PyTorch's in: a 3x3 convolution of stride 2 is padded as "SAME" pads, for even
sizes below and on the right only.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from jbin import errors, nn
from jbin.models import _base, _residual

F = TypeVar("F", bound=Callable[..., Any])

STEMS = {"conv7": (7, 2), "conv3": (3, 1)}
"""Name -> kernel size and stride; "conv7" is followed by a max-pool."""


class ResNet(nnx.Module):
  """Stem, stages of blocks, mean, classifier."""

  def __init__(
    self,
    stages: Sequence[int],
    num_classes: int,
    *,
    width: int,
    bottleneck: bool,
    stem: str,
    in_features: int,
    remat: nn.Remat,
    make: _residual.Make,
  ):
    """Makes the network.

    Args:
      stages: blocks in each stage; all stages but the first halve H and W.
      num_classes: length of the logits.
      width: channels of the stem; each stage after the first doubles them.
      bottleneck: three convolutions in a block, else two.
      stem: see `STEMS`.
      in_features: channels of the image.
      remat: what the backward pass computes again of each block.
      make: makes the layers.

    Raises:
      errors.UserError: for an unknown stem or `remat`, or a structure that the
        blocks cannot have.
    """
    nn.check_remat(remat)
    if stem not in STEMS:
      raise errors.UnknownName("stem", stem, STEMS)
    structure = make.structure
    self.pooled = stem == "conv7"
    self.remat: nn.Remat = remat
    self.stem = _residual.Unit(
      in_features,
      width,
      *STEMS[stem],
      make,
      activation=structure.stem_activation,
    )
    blocks: list[_residual.Block] = []
    channels = width
    for stage, count in enumerate(stages):
      wide = width * 2**stage
      for index in range(count):
        stride = 2 if stage > 0 and index == 0 else 1
        if bottleneck:
          shape = ((wide, wide, 4 * wide), (1, 3, 1), (1, stride, 1))
        else:
          shape = ((wide, wide), (3, 3), (stride, 1))
        blocks.append(_residual.Block(channels, *shape, make))
        channels = shape[0][-1]
    self.blocks = nnx.List(blocks)
    self.norm: nn.BatchNorm | None = (
      make.norm(channels) if structure.head_norm else nnx.data(None)
    )
    self.head = nn.Linear(
      channels, num_classes, dtype=make.dtype, rngs=make.rngs
    )

  def __call__(self, x: jax.Array) -> jax.Array:
    """(N, H, W, C) images to (N, num_classes) logits."""
    x = self.stem(x)
    if self.pooled:
      x = nnx.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))  # pyright: ignore[reportArgumentType]
    for block in self.blocks:
      x = nn.run(block, x, remat=self.remat)
    x = x.mean((1, 2))
    return self.head(x if self.norm is None else self.norm(x))


def _structured(factory: F) -> F:
  """Writes the fields of `Structure` out in the factory's signature."""
  signature = inspect.signature(factory)
  own = [
    p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD
  ]
  fields = [
    inspect.Parameter(
      field.name,
      inspect.Parameter.KEYWORD_ONLY,
      default=field.default,
      annotation=field.type,
    )
    for field in dataclasses.fields(_residual.Structure)
  ]
  factory.__signature__ = signature.replace(parameters=[*own, *fields])  # pyright: ignore[reportFunctionMemberAccess]
  return factory


def _make(
  structure: dict[str, Any], dtype: Any, rngs: nnx.Rngs
) -> _residual.Make:
  return _residual.Make(_residual.Structure(**structure), dtype, rngs)


@_base.REGISTRY.register
@_structured
def resnet50(
  num_classes: int = 1000,
  *,
  width: int = 64,
  stem: Literal["conv7", "conv3"] = "conv7",
  in_features: int = 3,
  remat: nn.Remat = "none",
  dtype: Any = jnp.float32,
  rngs: nnx.Rngs,
  **structure: Any,
) -> ResNet:
  """ResNet-50 v1.5: bottlenecks, 3, 4, 6 and 3 in four stages.

  Args:
    num_classes: length of the logits.
    width: channels of the stem; each stage after the first doubles them.
    stem: "conv7", 7x7 of stride 2 and a max-pool, or "conv3", 3x3 of stride 1
      for images of 32 pixels and less.
    in_features: channels of the image.
    remat: "none", "full" or "dots": what the backward pass computes again of
      each block; see `jbin.nn.scan`.
    dtype: of the computation.
    rngs: for the parameters.
    **structure: activation="relu", order="conv_norm_act", shortcut="block",
      projection="conv", stem_activation=True, head_norm=False,
      zero_gamma=True, init="fan_out"; see `jbin.models.Structure`.

  Raises:
    errors.UserError: for an unknown name, or a projection without a
      convolution where channels become fewer (shortcut="conv" in bottlenecks).
  """
  return ResNet(
    (3, 4, 6, 3),
    num_classes,
    width=width,
    bottleneck=True,
    stem=stem,
    in_features=in_features,
    remat=remat,
    make=_make(structure, dtype, rngs),
  )


@_base.REGISTRY.register
@_structured
def resnet34(
  num_classes: int = 1000,
  *,
  width: int = 64,
  stem: Literal["conv7", "conv3"] = "conv7",
  in_features: int = 3,
  remat: nn.Remat = "none",
  dtype: Any = jnp.float32,
  rngs: nnx.Rngs,
  **structure: Any,
) -> ResNet:
  """ResNet-34: blocks of two convolutions, 3, 4, 6 and 3 in four stages.

  Arguments and errors as for `resnet50`.
  """
  return ResNet(
    (3, 4, 6, 3),
    num_classes,
    width=width,
    bottleneck=False,
    stem=stem,
    in_features=in_features,
    remat=remat,
    make=_make(structure, dtype, rngs),
  )


@_base.REGISTRY.register
@_structured
def resnet18(
  num_classes: int = 1000,
  *,
  width: int = 64,
  stem: Literal["conv7", "conv3"] = "conv7",
  in_features: int = 3,
  remat: nn.Remat = "none",
  dtype: Any = jnp.float32,
  rngs: nnx.Rngs,
  **structure: Any,
) -> ResNet:
  """ResNet-18: blocks of two convolutions, 2 in each of four stages.

  Arguments and errors as for `resnet50`.
  """
  return ResNet(
    (2, 2, 2, 2),
    num_classes,
    width=width,
    bottleneck=False,
    stem=stem,
    in_features=in_features,
    remat=remat,
    make=_make(structure, dtype, rngs),
  )


@_base.REGISTRY.register
@_structured
def resnet20(
  num_classes: int = 10,
  *,
  blocks: int = 3,
  width: int = 16,
  stem: Literal["conv7", "conv3"] = "conv3",
  in_features: int = 3,
  remat: nn.Remat = "none",
  dtype: Any = jnp.float32,
  rngs: nnx.Rngs,
  **structure: Any,
) -> ResNet:
  """ResNet-20 for images of 32 pixels: blocks of two, 3 in each of 3 stages.

  Args:
    num_classes: length of the logits.
    blocks: in each stage; n blocks make 6 n + 2 layers, so 9 is ResNet-56.
    width: channels of the first stage; each stage after it doubles them.
    stem: as for `resnet50`, which has the other arguments and errors too.
    in_features: channels of the image.
    remat: as for `resnet50`.
    dtype: of the computation.
    rngs: for the parameters.
    **structure: as for `resnet50`.
  """
  return ResNet(
    (blocks,) * 3,
    num_classes,
    width=width,
    bottleneck=False,
    stem=stem,
    in_features=in_features,
    remat=remat,
    make=_make(structure, dtype, rngs),
  )
