"""PVTv2: four maps of tokens, each smaller than the one before.

A float network: rules make it low-bit. Its attention has keys from a reduced
map, as published, all tokens, or EcoFormer's hash codes, linear in them.

References: Wang et al., PVT v2, 2022 (arXiv 2106.13797); Liu et al., 2022
(arXiv 2209.09004) for the attentions "full" and "hash".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jbin import errors, nn
from jbin.models import _base, _blocks, _tokens

Attention = Literal["sr", "full", "hash"]
ATTENTIONS = ("sr", "full", "hash")


class ConvMlp(nnx.Module):
  """Linear, depthwise 3x3 convolution, exact GELU, linear; of a map."""

  def __init__(self, features: int, hidden: int, *, dtype: Any, rngs: nnx.Rngs):
    """Makes the layers.

    Args:
      features: of a token, before and after.
      hidden: between them.
      dtype: of the computation.
      rngs: for the kernels.
    """
    self.fc1 = _blocks.linear(features, hidden, dtype, rngs)
    self.depthwise = _tokens.depthwise(hidden, dtype, rngs)
    self.fc2 = _blocks.linear(hidden, features, dtype, rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    """(b, H, W, features) to the same."""
    x = _blocks.conv(self.depthwise, self.fc1(x))
    return self.fc2(jax.nn.gelu(x, approximate=False))


class Stage(nnx.Module):
  """Overlapping patches, a norm, blocks, a norm."""

  def __init__(
    self,
    before: int,
    features: int,
    rates: np.ndarray | None,
    *,
    patch: int,
    stride: int,
    heads: int,
    depth: int,
    mlp_ratio: float,
    reduction: int,
    hashing: _tokens.Hashing | None,
    eps: float,
    remat: nn.Remat,
    dtype: Any,
    rngs: nnx.Rngs,
  ):
    """Makes the stage.

    Args:
      before: channels of its input.
      features: of a token.
      rates: (depth,) at which branches are dropped; None: they are not.
      patch: pixels along a side of a patch.
      stride: between patches.
      heads: of each attention.
      depth: number of blocks.
      mlp_ratio: features inside the MLPs, for each of a token's.
      reduction: of the map that keys and values come from.
      hashing: for hash codes; None: softmax.
      eps: of the norms.
      remat: what the backward pass computes again.
      dtype: of the computation.
      rngs: for the parameters and the draws.
    """

    def block(rngs: nnx.Rngs) -> _tokens.MapBlock:
      hidden = _blocks.hidden(features, mlp_ratio)
      return _tokens.MapBlock(
        features,
        heads,
        ConvMlp(features, hidden, dtype=dtype, rngs=rngs),
        reduction=reduction,
        hashing=hashing,
        drop_path=rates is not None,
        eps=eps,
        dtype=dtype,
        rngs=rngs,
      )

    self.rates = rates
    self.remat: nn.Remat = remat
    self.patches = _tokens.strided(
      before, features, patch, stride, patch // 2, dtype, rngs
    )
    self.patches_norm = _blocks.layer_norm(features, eps, dtype, rngs)
    self.blocks = nn.stack(block, depth, rngs)
    self.norm = _blocks.layer_norm(features, eps, dtype, rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    """(b, H, W, before) to (b, H / stride, W / stride, features)."""
    x = _blocks.conv(self.patches, x)
    x = _blocks.norm(self.patches_norm, x)
    x, _ = nn.scan(self.blocks, x, each=self.rates, remat=self.remat)
    return _blocks.norm(self.norm, x)


class PvtV2(nnx.Module):
  """Stages, a mean, a classifier."""

  def __init__(
    self,
    num_classes: int,
    *,
    features: Sequence[int],
    depths: Sequence[int],
    heads: Sequence[int],
    mlp_ratios: Sequence[float],
    reductions: Sequence[int],
    patches: Sequence[int],
    strides: Sequence[int],
    attention: Attention,
    hashing: _tokens.Hashing,
    in_features: int,
    drop_path: float,
    eps: float,
    remat: nn.Remat,
    dtype: Any,
    rngs: nnx.Rngs,
  ):
    """Makes the network; for the arguments and errors see `pvt_v2`."""
    nn.check_remat(remat)
    if attention not in ATTENTIONS:
      raise errors.UnknownName("attention", attention, ATTENTIONS)
    given = {
      "features": features,
      "depths": depths,
      "heads": heads,
      "mlp_ratios": mlp_ratios,
      "reductions": reductions,
      "patches": patches,
      "strides": strides,
    }
    if len({len(item) for item in given.values()}) > 1 or not features:
      text = ", ".join(f"{key}={tuple(item)}" for key, item in given.items())
      raise errors.UserError(f"pvt_v2: {text}; give one of each to every stage")
    self.in_features = in_features
    rates = _blocks.drop_rates(drop_path, sum(depths)) if drop_path else None
    stages: list[Stage] = []
    for i, depth in enumerate(depths):
      begin = sum(depths[:i])
      last = i == len(depths) - 1
      stages.append(
        Stage(
          features[i - 1] if i else in_features,
          features[i],
          None if rates is None else rates[begin : begin + depth],
          patch=patches[i],
          stride=strides[i],
          heads=heads[i],
          depth=depth,
          mlp_ratio=mlp_ratios[i],
          reduction=reductions[i] if attention == "sr" else 1,
          hashing=hashing if attention == "hash" and not last else None,
          eps=eps,
          remat=remat,
          dtype=dtype,
          rngs=rngs,
        )
      )
    self.stages = nnx.List(stages)
    self.head = _blocks.linear(features[-1], num_classes, dtype, rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    """(b, H, W, in_features) images to (b, num_classes) logits.

    Raises:
      errors.UserError: for what is no such image.
    """
    _blocks.check_images("pvt_v2", x, self.in_features)
    for stage in self.stages:
      x = stage(x)
    return self.head(x.mean((1, 2)))

  def adapt(self, values: Mapping[str, Any]) -> dict[str, Any]:
    """A start from a model with another attention; see `models.hash_start`."""
    return _tokens.hash_start(values, self)


@_base.REGISTRY.register
def pvt_v2(
  num_classes: int = 1000,
  *,
  features: Sequence[int] = (32, 64, 160, 256),
  depths: Sequence[int] = (2, 2, 2, 2),
  heads: Sequence[int] = (1, 2, 5, 8),
  mlp_ratios: Sequence[float] = (8, 8, 4, 4),
  reductions: Sequence[int] = (8, 4, 2, 1),
  patches: Sequence[int] = (7, 3, 3, 3),
  strides: Sequence[int] = (4, 2, 2, 2),
  attention: Attention = "sr",
  bits: int = 16,
  anchors: int = 25,
  similar: int = 10,
  shift: Literal["own", "consistent"] = "own",
  in_features: int = 3,
  drop_path: float = 0.0,
  eps: float = 1e-6,
  remat: nn.Remat = "none",
  dtype: Any = jnp.float32,
  rngs: nnx.Rngs,
) -> PvtV2:
  """PVTv2 of any size: stages of ever smaller maps of tokens.

  Args:
    num_classes: length of the logits.
    features: of a token, in each stage.
    depths: transformer blocks of each stage.
    heads: of the attentions of each stage.
    mlp_ratios: features inside the MLPs of each stage, for each of a token's.
    reductions: along a side, of the maps that keys and values come from, in
      attention "sr".
    patches: pixels along a side of the patches that a stage begins with.
    strides: between these; a stage divides both sides of the map by its own.
    attention: of all stages but the last, which has softmax over its tokens:
      "sr", spatial reduction, as published; "full", softmax over all tokens;
      "hash", EcoFormer's (`nn.HashAttention`). The last stage has "sr", too,
      where its reduction is not 1.
    bits: of a hash code, as the next three for "hash".
    anchors: of a hash; no stage but the last may have fewer tokens.
    similar: pairs of each sign that a hash learns from, of a row.
    shift: "own", as in the code, or "consistent".
    in_features: channels of the images.
    drop_path: rate at which the last block's branches are dropped for an
      example; it grows from 0, in equal steps over all stages.
    eps: of the norms.
    remat: "none", "full" or "dots": what the backward pass computes again; see
      `jbin.nn.scan`.
    dtype: of the computation.
    rngs: for the parameters, and for dropped branches.

  Raises:
    errors.UserError: if the stages disagree, heads do not share the features
      evenly, or an attention or `remat` is unknown.
  """
  return PvtV2(
    num_classes,
    features=features,
    depths=depths,
    heads=heads,
    mlp_ratios=mlp_ratios,
    reductions=reductions,
    patches=patches,
    strides=strides,
    attention=attention,
    hashing=_tokens.Hashing(bits, anchors, shift, similar),
    in_features=in_features,
    drop_path=drop_path,
    eps=eps,
    remat=remat,
    dtype=dtype,
    rngs=rngs,
  )


def _of(
  depths: Sequence[int], features: Sequence[int] = (64, 128, 320, 512)
) -> Mapping[str, Any]:
  return {"features": features, "depths": depths, "heads": (1, 2, 5, 8)}


@_base.REGISTRY.register
@_blocks.size_of(pvt_v2)
def pvt_v2_b0() -> Mapping[str, Any]:
  """PVTv2-B0: 2 blocks in each stage, 32 to 256; options as for `pvt_v2`."""
  return _of((2, 2, 2, 2), (32, 64, 160, 256))


@_base.REGISTRY.register
@_blocks.size_of(pvt_v2)
def pvt_v2_b1() -> Mapping[str, Any]:
  """PVTv2-B1: 2 blocks in each stage, 64 to 512; options as for `pvt_v2`."""
  return _of((2, 2, 2, 2))


@_base.REGISTRY.register
@_blocks.size_of(pvt_v2)
def pvt_v2_b2() -> Mapping[str, Any]:
  """PVTv2-B2: 3, 4, 6 and 3 blocks, 64 to 512; options as for `pvt_v2`."""
  return _of((3, 4, 6, 3))


@_base.REGISTRY.register
@_blocks.size_of(pvt_v2)
def pvt_v2_b3() -> Mapping[str, Any]:
  """PVTv2-B3: 3, 4, 18 and 3 blocks, 64 to 512; options as for `pvt_v2`."""
  return _of((3, 4, 18, 3))


@_base.REGISTRY.register
@_blocks.size_of(pvt_v2)
def pvt_v2_b4() -> Mapping[str, Any]:
  """PVTv2-B4: 3, 8, 27 and 3 blocks, 64 to 512; options as for `pvt_v2`."""
  return _of((3, 8, 27, 3))
