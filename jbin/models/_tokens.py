"""What pyramids of tokens share: attentions of a map, and their start.

A stage of PVTv2 or Twins has one of three attentions. The published weights are
those of the cheap one ("sr" and "svt"): keys from a reduced map, or windows.
EcoFormer goes on from them with all tokens ("full"), and from that with hash
codes ("hash"); parameters that they have in common have the same paths.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jbin import errors, nn
from jbin.models import _blocks

# He's, by the elements that a kernel's input reaches.
_CONV_INIT = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")


@dataclasses.dataclass(frozen=True)
class Hashing:
  """What an attention with hash codes is made with; see `nn.HashAttention`."""

  bits: int = 16
  anchors: int = 25
  shift: Any = "own"
  similar: int = 10

  def attention(
    self, features: int, heads: int, *, dtype: Any, rngs: nnx.Rngs
  ) -> nn.HashAttention:
    """One such layer."""
    return nn.HashAttention(
      features,
      heads,
      bits=self.bits,
      anchors=self.anchors,
      shift=self.shift,
      learning=nn.HashLearning(similar=self.similar),
      dtype=dtype,
      kernel_init=_blocks.INIT,
      rngs=rngs,
    )


class Reduction(nnx.Module):
  """A smaller map for keys and values: a strided convolution, a norm."""

  def __init__(
    self, features: int, ratio: int, *, eps: float, dtype: Any, rngs: nnx.Rngs
  ):
    """Makes both layers.

    Args:
      features: of a token.
      ratio: of the sides.
      eps: of the norm.
      dtype: of the computation.
      rngs: for the kernel.
    """
    self.ratio = ratio
    self.conv = strided(features, features, ratio, ratio, 0, dtype, rngs)
    self.norm = _blocks.layer_norm(features, eps, dtype, rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    """(b, H, W, features) to (b, (H // ratio) * (W // ratio), features).

    Raises:
      errors.UserError: if nothing would be left.
    """
    if min(x.shape[1:3]) < self.ratio:
      raise errors.UserError(
        f"a map of {x.shape[1]}x{x.shape[2]} tokens cannot be reduced by"
        f" {self.ratio}; give larger images, or smaller reductions"
      )
    return _blocks.norm(self.norm, rows(_blocks.conv(self.conv, x)))


class MapBlock(_blocks.Block):
  """A block of a map of tokens: "sr", "full" or "hash" attention."""

  def __init__(
    self,
    features: int,
    heads: int,
    mlp: nnx.Module,
    *,
    reduction: int = 1,
    reduction_eps: float | None = None,
    hashing: Hashing | None = None,
    eps: float,
    dtype: Any,
    rngs: nnx.Rngs,
    **kwargs: Any,
  ):
    """Makes the block.

    Args:
      features: of a token.
      heads: of the attention.
      mlp: of a map.
      reduction: of the sides of the map that keys and values come from.
      reduction_eps: of that map's norm; None: as of the others.
      hashing: for hash codes; None: softmax.
      eps: of the norms.
      dtype: of the computation.
      rngs: for the parameters and the draws.
      **kwargs: as for `_blocks.Block`.
    """
    make = _blocks.attention if hashing is None else hashing.attention
    attn = make(features, heads, dtype=dtype, rngs=rngs)
    super().__init__(
      features, attn, mlp, eps=eps, dtype=dtype, rngs=rngs, **kwargs
    )
    self.reduction: Reduction | None = nnx.data(None)
    if hashing is None and reduction > 1:
      own = eps if reduction_eps is None else reduction_eps
      self.reduction = Reduction(
        features, reduction, eps=own, dtype=dtype, rngs=rngs
      )

  def attend(self, x: jax.Array) -> jax.Array:
    """(b, H, W, features) to the same."""
    attn: Any = self.attn
    keys = () if self.reduction is None else (self.reduction(x),)
    return jnp.reshape(attn(rows(x), *keys), x.shape)


def rows(x: jax.Array) -> jax.Array:
  """(b, H, W, c) to (b, H * W, c)."""
  return jnp.reshape(x, (x.shape[0], -1, x.shape[-1]))


def strided(
  before: int,
  features: int,
  size: int,
  stride: int,
  padding: int,
  dtype: Any,
  rngs: nnx.Rngs,
) -> nnx.Conv:
  """A square convolution of a map."""
  return nnx.Conv(
    before,
    features,
    (size, size),
    (stride, stride),
    padding=((padding, padding),) * 2,
    dtype=dtype,
    kernel_init=_CONV_INIT,
    rngs=rngs,
  )


def depthwise(features: int, dtype: Any, rngs: nnx.Rngs) -> nnx.Conv:
  """3x3, of each channel alone."""
  return nnx.Conv(
    features,
    features,
    (3, 3),
    feature_group_count=features,
    padding=((1, 1), (1, 1)),
    dtype=dtype,
    kernel_init=nnx.initializers.normal((2 / 9) ** 0.5),
    conv_general_dilated=nn.depthwise_conv,
    rngs=rngs,
  )


def hash_start(values: Mapping[str, Any], model: nnx.Module) -> dict[str, Any]:
  """Parameters of a model with another attention, as `model` begins with them.

  As EcoFormer goes on: a layer of reductions that the model lacks is left out;
  where its attention has one projection for queries and keys, the queries'
  becomes that, and the keys' is left out. All else, and what fits already,
  stays.

  Args:
    values: by path ("stages/0/blocks/attn/query/kernel").
    model: pvt_v2 or twins_svt, of any attention; it may be abstract.

  Returns:
    The values, by the model's paths.
  """
  state = nnx.to_flat_state(nnx.state(model, nnx.Param))
  wanted = {"/".join(map(str, path)) for path, _ in state}
  found: dict[str, Any] = {}
  for path, value in values.items():
    shared = re.sub(r"(?<![^/])attn/(query|key)(?=/)", "attn/qk", path)
    if path not in wanted and shared in wanted:
      if "attn/query/" in path:
        found[shared] = value
    elif path in wanted or not re.search(r"(?<![^/])reduction/", path):
      found[path] = value  # also of no use: whoever puts it in says so
  return found
