"""Twins-SVT: blocks in windows and blocks of all tokens in turns.

A float network: rules make it low-bit. Positions come from a convolution after
the first block of each stage. Its attentions are as published, or in both kinds
of blocks of all tokens, softmax or EcoFormer's hash codes.

References: Chu et al., 2021 (arXiv 2104.13840); Chu et al., 2021 (arXiv
2102.10882) for the positions; Liu et al., 2022 (arXiv 2209.09004) for the
attentions "full" and "hash".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jbin import errors, nn
from jbin.models import _base, _blocks, _tokens

Attention = Literal["svt", "full", "hash"]
ATTENTIONS = ("svt", "full", "hash")
# Of the norms beside the blocks: the code leaves PyTorch's there.
_OUTER_EPS = 1e-5


class WindowBlock(_tokens.MapBlock):
  """A block whose attention sees one window of the map.

  The map is padded with zeros, which take part, to whole windows.
  """

  def __init__(self, *args: Any, window: int, **kwargs: Any):
    """Makes the block; `window` tokens along a side, else as `MapBlock`."""
    super().__init__(*args, **kwargs)
    self.window = window

  def attend(self, x: jax.Array) -> jax.Array:
    """(b, H, W, features) to the same."""
    height, width = x.shape[1:3]
    x = _blocks.padded(x, self.window)
    attn: Any = self.attn
    y = attn(_blocks.windows(x, self.window))
    return _blocks.image(y, x.shape[1])[:, :height, :width]


class Pair(nnx.Module):
  """A block in windows, or of all tokens, and one of all tokens."""

  def __init__(
    self,
    features: int,
    heads: int,
    *,
    window: int | None,
    reduction: int,
    mlp_ratio: float,
    eps: float,
    dtype: Any,
    rngs: nnx.Rngs,
    **kwargs: Any,
  ):
    """Makes both.

    Args:
      features: of a token.
      heads: of the attentions.
      window: tokens along a side; None: the first block is as the second.
      reduction: of the map that the second block's keys come from.
      mlp_ratio: features inside the MLPs, for each of a token's.
      eps: of the blocks' norms.
      dtype: of the computation.
      rngs: for the parameters and the draws.
      **kwargs: as for `_tokens.MapBlock`.
    """

    def make(kind: Any, **more: Any) -> Any:
      hidden = _blocks.hidden(features, mlp_ratio)
      mlp = _blocks.Mlp(features, hidden, dtype=dtype, rngs=rngs)
      return kind(
        features,
        heads,
        mlp,
        eps=eps,
        dtype=dtype,
        rngs=rngs,
        **more,
        **kwargs,
      )

    self.local: _tokens.MapBlock = (
      make(_tokens.MapBlock)
      if window is None
      else make(WindowBlock, window=window)
    )
    self.across: _tokens.MapBlock = make(
      _tokens.MapBlock, reduction=reduction, reduction_eps=_OUTER_EPS
    )

  def __call__(
    self,
    x: jax.Array,
    rates: jax.Array | None = None,
    positions: nnx.Conv | None = None,
  ) -> jax.Array:
    """(b, H, W, features) to the same.

    Args:
      x: the map.
      rates: at which branches are dropped, of each block; None: they are not.
      positions: a convolution whose result is added between the blocks.
    """
    first, second = (None, None) if rates is None else (rates[0], rates[1])
    x = self.local(x, first)
    if positions is not None:
      x = x + _blocks.conv(positions, x)
    return self.across(x, second)


class Stage(nnx.Module):
  """Patches, a norm, a pair of blocks with positions inside, more pairs."""

  def __init__(
    self,
    before: int,
    features: int,
    heads: int,
    rates: np.ndarray | None,
    *,
    stride: int,
    depth: int,
    remat: nn.Remat,
    dtype: Any,
    rngs: nnx.Rngs,
    **kwargs: Any,
  ):
    """Makes the stage.

    Args:
      before: channels of its input.
      features: of a token.
      heads: of the attentions.
      rates: (depth,) at which branches are dropped; None: they are not.
      stride: pixels along a side of a patch.
      depth: number of blocks, even.
      remat: what the backward pass computes again.
      dtype: of the computation.
      rngs: for the parameters and the draws.
      **kwargs: as for `Pair`.
    """

    def pair(rngs: nnx.Rngs) -> Pair:
      return Pair(
        features,
        heads,
        drop_path=rates is not None,
        dtype=dtype,
        rngs=rngs,
        **kwargs,
      )

    self.rates = None if rates is None else rates.reshape(-1, 2)
    self.remat: nn.Remat = remat
    self.patches = _tokens.strided(
      before, features, stride, stride, 0, dtype, rngs
    )
    self.patches_norm = _blocks.layer_norm(features, _OUTER_EPS, dtype, rngs)
    self.positions = _tokens.depthwise(features, dtype, rngs)
    self.first = pair(rngs)
    self.blocks: Pair | None = nnx.data(
      nn.stack(pair, depth // 2 - 1, rngs) if depth > 2 else None
    )

  def __call__(self, x: jax.Array) -> jax.Array:
    """(b, H, W, before) to (b, H / stride, W / stride, features)."""
    x = _blocks.conv(self.patches, x)
    x = _blocks.norm(self.patches_norm, x)
    begun, others = (
      (None, None) if self.rates is None else (self.rates[0], self.rates[1:])
    )
    x = nn.run(self.first, x, begun, self.positions, remat=self.remat)
    if self.blocks is not None:
      x, _ = nn.scan(self.blocks, x, each=others, remat=self.remat)
    return x


class TwinsSvt(nnx.Module):
  """Stages, a norm, a mean, a classifier."""

  def __init__(
    self,
    num_classes: int,
    *,
    features: Sequence[int],
    depths: Sequence[int],
    heads: Sequence[int],
    reductions: Sequence[int],
    strides: Sequence[int],
    window: int,
    mlp_ratio: float,
    attention: Attention,
    hashing: _tokens.Hashing,
    in_features: int,
    drop_path: float,
    eps: float,
    remat: nn.Remat,
    dtype: Any,
    rngs: nnx.Rngs,
  ):
    """Makes the network; for the arguments and errors see `twins_svt`."""
    nn.check_remat(remat)
    if attention not in ATTENTIONS:
      raise errors.UnknownName("attention", attention, ATTENTIONS)
    lengths = {len(features), len(heads), len(reductions), len(strides)}
    if lengths != {len(depths)} or any(n < 2 or n % 2 for n in depths):
      raise errors.UserError(
        f"twins_svt: features={tuple(features)}, depths={tuple(depths)},"
        f" heads={tuple(heads)}, reductions={tuple(reductions)},"
        f" strides={tuple(strides)}; give one of each, and an even number of"
        " blocks, to every stage"
      )
    self.in_features, self.strides = in_features, tuple(strides)
    published = attention == "svt"
    rates = _blocks.drop_rates(drop_path, sum(depths)) if drop_path else None
    stages: list[Stage] = []
    for i, depth in enumerate(depths):
      begin = sum(depths[:i])
      last = i == len(depths) - 1
      stages.append(
        Stage(
          features[i - 1] if i else in_features,
          features[i],
          heads[i],
          None if rates is None else rates[begin : begin + depth],
          stride=strides[i],
          depth=depth,
          window=window if published else None,
          reduction=reductions[i] if published else 1,
          hashing=hashing if attention == "hash" and not last else None,
          mlp_ratio=mlp_ratio,
          eps=eps,
          remat=remat,
          dtype=dtype,
          rngs=rngs,
        )
      )
    self.stages = nnx.List(stages)
    self.norm = _blocks.layer_norm(features[-1], eps, dtype, rngs)
    self.head = _blocks.linear(features[-1], num_classes, dtype, rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    """(b, H, W, in_features) images to (b, num_classes) logits.

    Raises:
      errors.UserError: for images that patches do not fill in every stage.
    """
    _blocks.check_images("twins_svt", x, self.in_features)
    for i, (stage, stride) in enumerate(
      zip(self.stages, self.strides, strict=True)
    ):
      height, width = x.shape[1:3]
      if height % stride or width % stride:
        # The rest would be cut off, and of a smaller map nothing be left.
        raise errors.UserError(
          f"twins_svt: stage {i} has patches of {stride}x{stride}, which do not"
          f" fill a map of {height}x{width}; give images of whole multiples of"
          f" {math.prod(self.strides)} pixels a side, or other strides"
        )
      x = stage(x)
    return self.head(_blocks.norm(self.norm, x).mean((1, 2)))

  def adapt(self, values: Mapping[str, Any]) -> dict[str, Any]:
    """A start from a model with another attention; see `models.hash_start`."""
    return _tokens.hash_start(values, self)


@_base.REGISTRY.register
def twins_svt(
  num_classes: int = 1000,
  *,
  features: Sequence[int] = (64, 128, 256, 512),
  depths: Sequence[int] = (2, 2, 10, 4),
  heads: Sequence[int] = (2, 4, 8, 16),
  reductions: Sequence[int] = (8, 4, 2, 1),
  strides: Sequence[int] = (4, 2, 2, 2),
  window: int = 7,
  mlp_ratio: float = 4.0,
  attention: Attention = "svt",
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
) -> TwinsSvt:
  """Twins-SVT of any size: blocks in windows and across them in turns.

  Args:
    num_classes: length of the logits.
    features: of a token, in each stage.
    depths: transformer blocks of each stage, an even number.
    heads: of the attentions of each stage.
    reductions: along a side, of the maps that keys and values come from in
      every second block, in attention "svt".
    strides: pixels along a side of the patches that a stage begins with.
    window: tokens along a side, in attention "svt".
    mlp_ratio: features inside the MLPs, for each of a token's.
    attention: "svt", as published; "full": softmax over all tokens in all
      blocks; "hash": EcoFormer's (`nn.HashAttention`) in all blocks of all
      stages but the last, which has softmax over its tokens.
    bits: of a hash code, as the next three for "hash".
    anchors: of a hash; no stage but the last may have fewer tokens.
    similar: pairs of each sign that a hash learns from, of a row.
    shift: "own", as in the code, or "consistent".
    in_features: channels of the images.
    drop_path: rate at which the last block's branches are dropped for an
      example; it grows from 0, in equal steps over all stages.
    eps: of the norms in blocks and of the last one.
    remat: "none", "full" or "dots": what the backward pass computes again; see
      `jbin.nn.scan`.
    dtype: of the computation.
    rngs: for the parameters, and for dropped branches.

  Raises:
    errors.UserError: if the stages disagree, heads do not share the features
      evenly, or an attention or `remat` is unknown.
  """
  return TwinsSvt(
    num_classes,
    features=features,
    depths=depths,
    heads=heads,
    reductions=reductions,
    strides=strides,
    window=window,
    mlp_ratio=mlp_ratio,
    attention=attention,
    hashing=_tokens.Hashing(bits, anchors, shift, similar),
    in_features=in_features,
    drop_path=drop_path,
    eps=eps,
    remat=remat,
    dtype=dtype,
    rngs=rngs,
  )


@_base.REGISTRY.register
@_blocks.size_of(twins_svt)
def twins_svt_s() -> Mapping[str, Any]:
  """Twins-SVT-S: 2, 2, 10 and 4 blocks, 64 to 512; options of `twins_svt`."""
  return {
    "features": (64, 128, 256, 512),
    "depths": (2, 2, 10, 4),
    "heads": (2, 4, 8, 16),
  }
