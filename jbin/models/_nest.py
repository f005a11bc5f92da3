"""NesT: transformers in blocks of the image, which are merged level by level.

Float networks: rules make them low-bit. The blocks of the image are a batch
axis of the attention.

Reference: Zhang et al., 2022 (arXiv 2105.12723).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jbin import errors, nn
from jbin.models import _base, _blocks


class Merge(nnx.Module):
  """Between levels: a 3x3 convolution, a norm, a max-pool of stride 2."""

  def __init__(
    self, before: int, features: int, *, eps: float, dtype: Any, rngs: nnx.Rngs
  ):
    """Makes both layers.

    Args:
      before: channels before it.
      features: channels after it.
      eps: of the norm.
      dtype: of the computation.
      rngs: for the kernel.
    """
    self.conv = nnx.Conv(
      before,
      features,
      (3, 3),
      dtype=dtype,
      kernel_init=_blocks.INIT,
      rngs=rngs,
    )
    self.norm = _blocks.layer_norm(features, eps, dtype, rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    """(b, H, W, before) to (b, H / 2, W / 2, features)."""
    x = _blocks.norm(self.norm, _blocks.conv(self.conv, x))
    return nnx.max_pool(x, (3, 3), (2, 2), padding="SAME")


class Level(nnx.Module):
  """A merge of what comes before, positions, and transformer blocks.

  The blocks see the image cut into `count` squares, which do not see each
  other.
  """

  def __init__(
    self,
    before: int | None,
    features: int,
    heads: int,
    rates: np.ndarray | None,
    *,
    depth: int,
    size: int,
    count: int,
    mlp_ratio: float,
    qkv_bias: bool,
    dropout: float,
    attention_dropout: float,
    eps: float,
    remat: nn.Remat,
    dtype: Any,
    rngs: nnx.Rngs,
  ):
    """Makes the level.

    Args:
      before: channels of the level before; None: there is none, nor a merge.
      features: of a token.
      heads: of each attention.
      rates: (depth,) at which branches are dropped; None: they are not.
      depth: number of transformer blocks.
      size: tokens along a side of a square.
      count: of squares.
      mlp_ratio: features inside the MLPs, for each outside.
      qkv_bias: whether queries, keys and values have biases.
      dropout: rate, of what each branch gives.
      attention_dropout: rate, of the probabilities.
      eps: of the norms.
      remat: what the backward pass computes again.
      dtype: of the computation.
      rngs: for the parameters and the draws.
    """
    self.size, self.rates = size, rates
    self.remat: nn.Remat = remat
    self.merge: Merge | None = nnx.data(None)
    if before is not None:
      self.merge = Merge(before, features, eps=eps, dtype=dtype, rngs=rngs)
    shape = (1, count, size * size, features)
    self.positions = nn.undecayed(
      _blocks.INIT(rngs.params(), shape, jnp.float32)
    )

    def block(rngs: nnx.Rngs) -> _blocks.Block:
      attn = _blocks.attention(
        features,
        heads,
        qkv_bias=qkv_bias,
        dropout=attention_dropout,
        dtype=dtype,
        rngs=rngs,
      )
      hidden = _blocks.hidden(features, mlp_ratio)
      return _blocks.Block(
        features,
        attn,
        _blocks.Mlp(features, hidden, dtype=dtype, rngs=rngs),
        eps=eps,
        dropout=dropout,
        drop_path=rates is not None,
        dtype=dtype,
        rngs=rngs,
      )

    self.blocks = nn.stack(block, depth, rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    """(b, H, W, before) to (b, H / 2, W / 2, features), H and W if no merge."""
    x = x if self.merge is None else self.merge(x)
    height = x.shape[1]
    x = _blocks.windows(x, self.size)
    x = x + self.positions[...].astype(x.dtype)
    x, _ = nn.scan(self.blocks, x, each=self.rates, remat=self.remat)
    return _blocks.image(x, height)


class Nest(nnx.Module):
  """Patches, levels, a norm, a mean, a classifier."""

  def __init__(
    self,
    num_classes: int,
    *,
    features: Sequence[int],
    depths: Sequence[int],
    heads: Sequence[int],
    patch: int,
    image_size: int,
    in_features: int,
    mlp_ratio: float,
    qkv_bias: bool,
    dropout: float,
    attention_dropout: float,
    drop_path: float,
    eps: float,
    remat: nn.Remat,
    dtype: Any,
    rngs: nnx.Rngs,
  ):
    """Makes the network; for the arguments and errors see `nest`."""
    nn.check_remat(remat)
    if not len(features) == len(depths) == len(heads) > 0:
      raise errors.UserError(
        f"nest: features={tuple(features)}, depths={tuple(depths)},"
        f" heads={tuple(heads)}; give one of each to every level"
      )
    last = len(depths) - 1
    smallest = patch * 2**last
    if patch < 1 or image_size < smallest or image_size % smallest:
      raise errors.UserError(
        f"nest: {len(depths)} levels with patches of {patch} need images of"
        f" whole multiples of {smallest} pixels, not of {image_size}"
      )
    self.shape = (image_size, image_size, in_features)
    self.patches = _blocks.patch_embedding(
      in_features, features[0], patch, dtype, rngs
    )
    self.dropout = _blocks.make_dropout(dropout, rngs)
    rates = _blocks.drop_rates(drop_path, sum(depths)) if drop_path else None
    levels: list[Level] = []
    for i, depth in enumerate(depths):
      begin = sum(depths[:i])
      levels.append(
        Level(
          features[i - 1] if i else None,
          features[i],
          heads[i],
          None if rates is None else rates[begin : begin + depth],
          depth=depth,
          size=image_size // smallest,
          count=4 ** (last - i),
          mlp_ratio=mlp_ratio,
          qkv_bias=qkv_bias,
          dropout=dropout,
          attention_dropout=attention_dropout,
          eps=eps,
          remat=remat,
          dtype=dtype,
          rngs=rngs,
        )
      )
    self.levels = nnx.List(levels)
    self.norm = _blocks.layer_norm(features[-1], eps, dtype, rngs)
    self.head = _blocks.linear(features[-1], num_classes, dtype, rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    """(b, H, W, in_features) images to (b, num_classes) logits.

    Raises:
      errors.UserError: for images of another size than it is made for.
    """
    _blocks.check_images("nest", x, self.shape[-1], self.shape[0])
    x = _blocks.conv(self.patches, x)
    if self.dropout is not None:
      x = self.dropout(x)
    for level in self.levels:
      x = level(x)
    return self.head(_blocks.norm(self.norm, x).mean((1, 2)))


@_base.REGISTRY.register
def nest(
  num_classes: int = 1000,
  *,
  features: Sequence[int] = (96, 192, 384),
  depths: Sequence[int] = (2, 2, 8),
  heads: Sequence[int] = (3, 6, 12),
  patch: int = 4,
  image_size: int = 224,
  in_features: int = 3,
  mlp_ratio: float = 4.0,
  qkv_bias: bool = True,
  dropout: float = 0.0,
  attention_dropout: float = 0.0,
  drop_path: float = 0.0,
  eps: float = 1e-6,
  remat: nn.Remat = "none",
  dtype: Any = jnp.float32,
  rngs: nnx.Rngs,
) -> Nest:
  """NesT of any size: attention in squares of the image, four merged to one.

  A level has four times fewer squares than the one before it, the last has
  one; all have the same size, which patches, levels and images give.

  Args:
    num_classes: length of the logits.
    features: of a token, in each level.
    depths: transformer blocks of each level.
    heads: of the attentions of each level.
    patch: pixels along a side of a patch.
    image_size: pixels along a side of the images.
    in_features: channels of the images.
    mlp_ratio: features inside the MLPs, for each of a token's.
    qkv_bias: whether queries, keys and values have biases.
    dropout: rate, of the embedding and of what each branch gives.
    attention_dropout: rate, of the attentions' probabilities.
    drop_path: rate at which the last block's branches are dropped for an
      example; it grows from 0, in equal steps over all levels.
    eps: of the norms.
    remat: "none", "full" or "dots": what the backward pass computes again; see
      `jbin.nn.scan`.
    dtype: of the computation.
    rngs: for the parameters, and for dropout.

  Raises:
    errors.UserError: if the levels disagree, squares do not fill the image,
      heads do not share the features evenly, or `remat` is unknown.

  Differs from timm's in: padding is that of the checkpoints from JAX, "SAME"
  (theirs of the names that end in "_jx").
  """
  return Nest(
    num_classes,
    features=features,
    depths=depths,
    heads=heads,
    patch=patch,
    image_size=image_size,
    in_features=in_features,
    mlp_ratio=mlp_ratio,
    qkv_bias=qkv_bias,
    dropout=dropout,
    attention_dropout=attention_dropout,
    drop_path=drop_path,
    eps=eps,
    remat=remat,
    dtype=dtype,
    rngs=rngs,
  )


def _of(depths: Sequence[int]) -> Mapping[str, Any]:
  return {"features": (96, 192, 384), "depths": depths, "heads": (3, 6, 12)}


@_base.REGISTRY.register
@_blocks.size_of(nest)
def nest_t() -> Mapping[str, Any]:
  """NesT-T: 2, 2 and 8 blocks of 96, 192 and 384; options as for `nest`."""
  return _of((2, 2, 8))


@_base.REGISTRY.register
@_blocks.size_of(nest)
def nest_s() -> Mapping[str, Any]:
  """NesT-S: 2, 2 and 20 blocks of 96, 192 and 384; options as for `nest`."""
  return _of((2, 2, 20))
