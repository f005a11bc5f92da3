"""Swin: a transformer in windows of the image, shifted in every other block.

Float networks: rules make them low-bit. Stages are stacks of pairs of blocks,
the even one in windows as they lie, the odd one in shifted ones.

Reference: Liu et al., 2021 (arXiv 2103.14030).
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


def relative_index(window: int) -> np.ndarray:
  """(w^2, w^2): which row of a table of (2 w - 1)^2 each pair of tokens has.

  Rows run over the query's place less the key's, vertically and then
  horizontally, from -(w - 1) to w - 1.
  """
  at = np.indices((window, window)).reshape(2, -1)
  apart = at[:, :, None] - at[:, None, :] + window - 1
  return apart[0] * (2 * window - 1) + apart[1]


def together(height: int, width: int, window: int, shift: int) -> np.ndarray:
  """(windows, 1, w^2, w^2): whether two tokens were neighbours before a shift.

  A roll brings what lay at opposite borders into one window.
  """

  def region(size: int) -> np.ndarray:
    borders = [size - window, size - shift]
    return np.searchsorted(borders, np.arange(size), "right")

  regions = 3 * region(height)[:, None] + region(width)
  rows = regions.reshape(height // window, window, width // window, window)
  found = rows.swapaxes(1, 2).reshape(-1, 1, window * window)
  return found[..., :, None] == found[..., None, :]


class WindowBlock(_blocks.Block):
  """A block whose attention sees one window, shifted by half of it or not.

  The map is padded with zeros, which take part, to whole windows.
  """

  def __init__(
    self,
    features: int,
    heads: int,
    *,
    window: int,
    shifted: bool,
    mlp_ratio: float,
    qkv_bias: bool,
    attention_dropout: float,
    dtype: Any,
    rngs: nnx.Rngs,
    **kwargs: Any,
  ):
    """Makes the block.

    Args:
      features: length of the last axis.
      heads: of the attention.
      window: tokens along a side of a window.
      shifted: whether windows lie between those of the block before.
      mlp_ratio: features inside the MLP, for each outside.
      qkv_bias: whether queries, keys and values have biases.
      attention_dropout: rate, of the probabilities.
      dtype: of the computation.
      rngs: for the parameters and the draws.
      **kwargs: as for `_blocks.Block`.
    """
    attn = _blocks.attention(
      features,
      heads,
      qkv_bias=qkv_bias,
      dropout=attention_dropout,
      dtype=dtype,
      rngs=rngs,
    )
    hidden = _blocks.hidden(features, mlp_ratio)
    mlp = _blocks.Mlp(features, hidden, dtype=dtype, rngs=rngs)
    super().__init__(features, attn, mlp, dtype=dtype, rngs=rngs, **kwargs)
    self.window = window
    self.shift = window // 2 if shifted else 0
    shape = ((2 * window - 1) ** 2, heads)
    self.table = nn.undecayed(_blocks.INIT(rngs.params(), shape, jnp.float32))

  def attend(self, x: jax.Array) -> jax.Array:
    """(b, H, W, features) to the same."""
    height, width = x.shape[1:3]
    if min(height, width) < self.window:
      raise errors.UserError(
        f"swin: a map of {height}x{width} tokens is smaller than a window of"
        f" {self.window}; make the model with the image_size that it gets"
      )
    # One window has no others to shift into.
    shift = self.shift if min(height, width) > self.window else 0
    x = _blocks.padded(x, self.window)
    rows, columns = x.shape[1:3]
    mask = None
    if shift:
      x = jnp.roll(x, (-shift, -shift), (1, 2))
      near = together(rows, columns, self.window, shift)
      # Flax's function broadcasts no mask over two batch axes.
      mask = jnp.broadcast_to(near, (x.shape[0], *near.shape))
    bias = jnp.moveaxis(self.table[...][relative_index(self.window)], -1, 0)
    attn: Any = self.attn
    y = attn(_blocks.windows(x, self.window), bias=bias, mask=mask)
    y = _blocks.image(y, rows)
    if shift:
      y = jnp.roll(y, (shift, shift), (1, 2))
    return y[:, :height, :width]


class Pair(nnx.Module):
  """A block in windows as they lie, and one in shifted windows."""

  def __init__(self, *args: Any, **kwargs: Any):
    """Makes both; arguments as for `WindowBlock`."""
    self.even = WindowBlock(*args, shifted=False, **kwargs)
    self.odd = WindowBlock(*args, shifted=True, **kwargs)

  def __call__(self, x: jax.Array, rates: jax.Array | None = None) -> jax.Array:
    """(b, H, W, features) to the same; a rate of dropped branches for each."""
    for i, block in enumerate((self.even, self.odd)):
      x = block(x, None if rates is None else rates[i])
    return x


class Merge(nnx.Module):
  """Four neighbours side by side, a norm, a linear map to half of them."""

  def __init__(self, features: int, *, eps: float, dtype: Any, rngs: nnx.Rngs):
    """Makes both layers.

    Args:
      features: before; twice as many after.
      eps: of the norm.
      dtype: of the computation.
      rngs: for the kernel.
    """
    self.norm = _blocks.layer_norm(4 * features, eps, dtype, rngs)
    self.linear = _blocks.linear(
      4 * features, 2 * features, dtype, rngs, use_bias=False
    )

  def __call__(self, x: jax.Array) -> jax.Array:
    """(b, H, W, features) to (b, H / 2, W / 2, 2 features), rounded up."""
    x = _blocks.padded(x, 2)
    parts = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
    return self.linear(_blocks.norm(self.norm, jnp.concatenate(parts, -1)))


class Stage(nnx.Module):
  """Pairs of blocks, and a merge unless it is the last."""

  def __init__(
    self,
    features: int,
    heads: int,
    rates: np.ndarray | None,
    *,
    depth: int,
    merge: bool,
    eps: float,
    remat: nn.Remat,
    dtype: Any,
    rngs: nnx.Rngs,
    **kwargs: Any,
  ):
    """Makes the stage.

    Args:
      features: of a token; the merge doubles them.
      heads: of each attention.
      rates: (depth,) at which branches are dropped; None: they are not.
      depth: number of blocks, even.
      merge: whether a merge ends it.
      eps: of the norms.
      remat: what the backward pass computes again.
      dtype: of the computation.
      rngs: for the parameters and the draws.
      **kwargs: as for `WindowBlock`.
    """

    def pair(rngs: nnx.Rngs) -> Pair:
      return Pair(
        features,
        heads,
        drop_path=rates is not None,
        eps=eps,
        dtype=dtype,
        rngs=rngs,
        **kwargs,
      )

    self.rates = None if rates is None else rates.reshape(-1, 2)
    self.remat: nn.Remat = remat
    self.blocks = nn.stack(pair, depth // 2, rngs)
    self.merge: Merge | None = nnx.data(
      Merge(features, eps=eps, dtype=dtype, rngs=rngs) if merge else None
    )

  def __call__(self, x: jax.Array) -> jax.Array:
    """(b, H, W, features) to that, or to what the merge makes of it."""
    x, _ = nn.scan(self.blocks, x, each=self.rates, remat=self.remat)
    return x if self.merge is None else self.merge(x)


class Swin(nnx.Module):
  """Patches, stages with merges between them, a norm, a mean, a classifier."""

  def __init__(
    self,
    num_classes: int,
    *,
    features: int,
    depths: Sequence[int],
    heads: Sequence[int],
    window: int,
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
    """Makes the network; for the arguments and errors see `swin`."""
    nn.check_remat(remat)
    if len(depths) != len(heads) or any(n < 2 or n % 2 for n in depths):
      raise errors.UserError(
        f"swin: depths={tuple(depths)}, heads={tuple(heads)}; give as many of"
        " one as of the other, and an even number of blocks to each stage"
      )
    if min(window, patch, image_size) < 1:
      raise errors.UserError(
        f"swin: window={window}, patch={patch}, image_size={image_size}; each"
        " is 1 or more"
      )
    rates = _blocks.drop_rates(drop_path, sum(depths)) if drop_path else None
    self.patch, self.in_features = patch, in_features
    self.patches = _blocks.patch_embedding(
      in_features, features, patch, dtype, rngs
    )
    self.patches_norm = _blocks.layer_norm(features, eps, dtype, rngs)
    self.dropout = _blocks.make_dropout(dropout, rngs)
    stages: list[Stage] = []
    side = -(-image_size // patch)
    for i, (depth, n) in enumerate(zip(depths, heads, strict=True)):
      begin = sum(depths[:i])
      stages.append(
        Stage(
          features * 2**i,
          n,
          None if rates is None else rates[begin : begin + depth],
          depth=depth,
          merge=i < len(depths) - 1,
          window=min(window, side),
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
      side = -(-side // 2)
    self.stages = nnx.List(stages)
    features *= 2 ** (len(depths) - 1)
    self.norm = _blocks.layer_norm(features, eps, dtype, rngs)
    self.head = _blocks.linear(features, num_classes, dtype, rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    """(b, H, W, in_features) images to (b, num_classes) logits.

    Raises:
      errors.UserError: for images so small that a window does not fill.
    """
    _blocks.check_images("swin", x, self.in_features)
    x = _blocks.conv(self.patches, _blocks.padded(x, self.patch))
    x = _blocks.norm(self.patches_norm, x)
    if self.dropout is not None:
      x = self.dropout(x)
    for stage in self.stages:
      x = stage(x)
    return self.head(_blocks.norm(self.norm, x).mean((1, 2)))


@_base.REGISTRY.register
def swin(
  num_classes: int = 1000,
  *,
  features: int = 96,
  depths: Sequence[int] = (2, 2, 6, 2),
  heads: Sequence[int] = (3, 6, 12, 24),
  window: int = 7,
  patch: int = 4,
  image_size: int = 224,
  in_features: int = 3,
  mlp_ratio: float = 4.0,
  qkv_bias: bool = True,
  dropout: float = 0.0,
  attention_dropout: float = 0.0,
  drop_path: float = 0.0,
  eps: float = 1e-5,
  remat: nn.Remat = "none",
  dtype: Any = jnp.float32,
  rngs: nnx.Rngs,
) -> Swin:
  """Swin of any size: attention in shifted windows, four maps ever smaller.

  Images of other sizes, and not square ones, may be given too: they and each
  map are padded with zeros to whole patches, windows and merges. A map of one
  window, or less (its window is then the map), is not shifted.

  Args:
    num_classes: length of the logits.
    features: of a token in the first stage; each stage doubles them.
    depths: blocks of each stage, even numbers.
    heads: of the attentions of each stage.
    window: tokens along a side of a window.
    patch: pixels along a side of a patch.
    image_size: pixels along a side of the images; with `window` it says how
      many relative positions there are.
    in_features: channels of the images.
    mlp_ratio: features inside the MLPs, for each of a token's.
    qkv_bias: whether queries, keys and values have biases.
    dropout: rate, of the embedding and of what each branch gives.
    attention_dropout: rate, of the attentions' probabilities.
    drop_path: rate at which the last block's branches are dropped for an
      example; it grows from 0, in equal steps over all stages.
    eps: of the norms.
    remat: "none", "full" or "dots": what the backward pass computes again; see
      `jbin.nn.scan`.
    dtype: of the computation.
    rngs: for the parameters, and for dropout.

  Raises:
    errors.UserError: if depths are odd or not as many as heads, heads do not
      share the features evenly, or `remat` is unknown.
  """
  return Swin(
    num_classes,
    features=features,
    depths=depths,
    heads=heads,
    window=window,
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
  return {"features": 96, "depths": depths, "heads": (3, 6, 12, 24)}


@_base.REGISTRY.register
@_blocks.size_of(swin)
def swin_t() -> Mapping[str, Any]:
  """Swin-T: 2, 2, 6 and 2 blocks; options as for `swin`."""
  return _of((2, 2, 6, 2))


@_base.REGISTRY.register
@_blocks.size_of(swin)
def swin_s() -> Mapping[str, Any]:
  """Swin-S: 2, 2, 18 and 2 blocks; options as for `swin`."""
  return _of((2, 2, 18, 2))
