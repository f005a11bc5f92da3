"""ViT and DeiT: a transformer on the patches of an image.

Float networks: rules make them low-bit (`jbin.quantize`, or the key `rules` of
a config). DeiT is here without its distillation token.

References: Dosovitskiy et al., 2021 (arXiv 2010.11929); Touvron et al., 2021
(arXiv 2012.12877).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from jbin import errors, nn
from jbin.models import _base, _blocks

Pool = Literal["token", "mean"]
POOLS = ("token", "mean")


class Block(_blocks.Block):
  """A block that can also show its attention's projections."""

  def tapped(
    self, x: jax.Array, rate: jax.Array | None = None
  ) -> tuple[jax.Array, nn.Taps]:
    """(b, tokens, features) to the same, as in a call, and `nn.Taps`."""
    attn: Any = self.attn
    y, found = attn(_blocks.norm(self.norm1, x), taps=True)
    return self.add(x, y, rate), found


class VisionTransformer(nnx.Module):
  """Patches, a class token, positions, equal blocks, a norm, a classifier."""

  def __init__(
    self,
    num_classes: int,
    *,
    features: int,
    depth: int,
    heads: int,
    mlp_ratio: float,
    patch: int,
    image_size: int,
    in_features: int,
    pool: Pool,
    qkv_bias: bool,
    dropout: float,
    attention_dropout: float,
    drop_path: float,
    eps: float,
    remat: nn.Remat,
    dtype: Any,
    rngs: nnx.Rngs,
  ):
    """Makes the network; for the arguments and errors see `vit`."""
    nn.check_remat(remat)
    if pool not in POOLS:
      raise errors.UnknownName("pool", pool, POOLS)
    if patch < 1 or image_size < patch or image_size % patch:
      raise errors.UserError(
        f"vit: an image of {image_size} pixels a side has no whole number of"
        f" patches of {patch}; set image_size to a multiple of patch"
      )
    self.shape = (image_size, image_size, in_features)
    self.depth = depth
    self.remat: nn.Remat = remat
    self.rates = _blocks.drop_rates(drop_path, depth) if drop_path else None
    self.patches = _blocks.patch_embedding(
      in_features, features, patch, dtype, rngs
    )
    tokens = (image_size // patch) ** 2
    self.token: nnx.Param | None = nnx.data(None)
    if pool == "token":
      tokens += 1
      start = _blocks.INIT(rngs.params(), (1, 1, features), jnp.float32)
      self.token = nn.undecayed(start)
    self.positions = nn.undecayed(
      _blocks.INIT(rngs.params(), (1, tokens, features), jnp.float32)
    )
    self.dropout = _blocks.make_dropout(dropout, rngs)

    def block(rngs: nnx.Rngs) -> Block:
      attn = _blocks.attention(
        features,
        heads,
        qkv_bias=qkv_bias,
        dropout=attention_dropout,
        dtype=dtype,
        rngs=rngs,
      )
      hidden = _blocks.hidden(features, mlp_ratio)
      return Block(
        features,
        attn,
        _blocks.Mlp(features, hidden, dtype=dtype, rngs=rngs),
        eps=eps,
        dropout=dropout,
        drop_path=drop_path > 0,
        dtype=dtype,
        rngs=rngs,
      )

    self.blocks = nn.stack(block, depth, rngs)
    self.norm = _blocks.layer_norm(features, eps, dtype, rngs)
    self.head = _blocks.linear(features, num_classes, dtype, rngs)

  def embed(self, x: jax.Array) -> jax.Array:
    """(b, H, W, in_features) images to (b, tokens, features)."""
    _blocks.check_images("vit", x, self.shape[-1], self.shape[0])
    x = _blocks.conv(self.patches, x)
    x = jnp.reshape(x, (x.shape[0], -1, x.shape[-1]))
    if self.token is not None:
      token = self.token[...].astype(x.dtype)
      token = jnp.broadcast_to(token, (x.shape[0], 1, x.shape[-1]))
      x = jnp.concatenate([token, x], 1)
    x = x + self.positions[...].astype(x.dtype)
    return x if self.dropout is None else self.dropout(x)

  def __call__(
    self, x: jax.Array, *, taps: bool = False
  ) -> jax.Array | _base.Outputs:
    """(b, H, W, in_features) images to (b, num_classes) logits.

    Args:
      x: images of the size that the network is made for.
      taps: whether to return `models.Outputs`.

    Raises:
      errors.UserError: for images of another size.
    """
    first = self.embed(x)
    x, seen = nn.scan(
      self.blocks,
      first,
      each=self.rates,
      call=_tapped if taps else None,
      remat=self.remat,
    )
    y = _blocks.norm(self.norm, x)
    logits = self.head(y.mean(1) if self.token is None else y[:, 0])
    if not taps:
      return logits
    hidden, found = seen
    hidden = jnp.concatenate([first[None], hidden])
    return _base.Outputs(logits, hidden, *found)


def _tapped(block: Block, x: jax.Array, *rate: jax.Array) -> tuple[Any, Any]:
  """A block that also gives its output, and its attention's projections."""
  x, found = block.tapped(x, *rate)
  return x, (x, found)


@_base.REGISTRY.register
def vit(
  num_classes: int = 1000,
  *,
  features: int = 192,
  depth: int = 12,
  heads: int = 3,
  mlp_ratio: float = 4.0,
  patch: int = 16,
  image_size: int = 224,
  in_features: int = 3,
  pool: Pool = "token",
  qkv_bias: bool = True,
  dropout: float = 0.0,
  attention_dropout: float = 0.0,
  drop_path: float = 0.0,
  eps: float = 1e-12,
  remat: nn.Remat = "none",
  dtype: Any = jnp.float32,
  rngs: nnx.Rngs,
) -> VisionTransformer:
  """ViT of any size: pre-norm blocks on patches, positions learned.

  Its call takes `taps=True` and then gives `models.Outputs`.

  Args:
    num_classes: length of the logits.
    features: of a token.
    depth: number of blocks.
    heads: of each attention.
    mlp_ratio: features inside the MLPs, for each of a token's.
    patch: pixels along a side of a patch.
    image_size: pixels along a side of the images.
    in_features: channels of the images.
    pool: "token" classifies a class token, "mean" the mean of all tokens, of
      which none is a class token then.
    qkv_bias: whether queries, keys and values have biases.
    dropout: rate, of the embedding and of what each branch gives.
    attention_dropout: rate, of the attentions' probabilities.
    drop_path: rate at which the last block's branches are dropped for an
      example; it grows from 0, in equal steps.
    eps: of the norms; checkpoints of the Hugging Face hub have 1e-12, those of
      timm 1e-6.
    remat: "none", "full" or "dots": what the backward pass computes again; see
      `jbin.nn.scan`.
    dtype: of the computation.
    rngs: for the parameters, and for dropout.

  Raises:
    errors.UserError: if patches do not fill the image, heads the features, or
      `remat` is unknown.
  """
  return VisionTransformer(
    num_classes,
    features=features,
    depth=depth,
    heads=heads,
    mlp_ratio=mlp_ratio,
    patch=patch,
    image_size=image_size,
    in_features=in_features,
    pool=pool,
    qkv_bias=qkv_bias,
    dropout=dropout,
    attention_dropout=attention_dropout,
    drop_path=drop_path,
    eps=eps,
    remat=remat,
    dtype=dtype,
    rngs=rngs,
  )


@_base.REGISTRY.register
@_blocks.size_of(vit)
def deit_t() -> Mapping[str, Any]:
  """DeiT-T: 12 blocks of 192 features and 3 heads; options as for `vit`."""
  return {"features": 192, "depth": 12, "heads": 3}


@_base.REGISTRY.register
@_blocks.size_of(vit)
def deit_s() -> Mapping[str, Any]:
  """DeiT-S: 12 blocks of 384 features and 6 heads; options as for `vit`."""
  return {"features": 384, "depth": 12, "heads": 6}


@_base.REGISTRY.register
@_blocks.size_of(vit)
def deit_b() -> Mapping[str, Any]:
  """DeiT-B: 12 blocks of 768 features and 12 heads; options as for `vit`."""
  return {"features": 768, "depth": 12, "heads": 12}
