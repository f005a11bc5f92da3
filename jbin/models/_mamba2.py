"""Mamba-2: a language model of state-space layers, in place of attention.

A float network: rules make it low-bit (`jbin.quantize`, or the key `rules` of
a config), as Bi-Mamba does with the two projections of each layer.

References: Dao and Gu, 2024 (arXiv 2405.21060); Tang et al., 2024 (arXiv
2411.11843) for the sizes with 1-bit projections.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jbin import errors, nn
from jbin.models import _base, _blocks, _mamba2_mixer as _mixer, _tokens_in


class Layer(nnx.Module):
  """`u + mixer(norm(u))`, u in float32."""

  def __init__(
    self,
    sizes: _mixer.Sizes,
    *,
    layers: int,
    chunk: int,
    eps: float,
    dt_limit: tuple[float, float],
    dtype: Any,
    rngs: nnx.Rngs,
  ):
    """Makes the layer; for the arguments see `mamba2`."""
    self.norm = nnx.RMSNorm(sizes.features, epsilon=eps, dtype=dtype, rngs=rngs)
    self.mixer = _mixer.Mixer(
      sizes,
      layers=layers,
      chunk=chunk,
      eps=eps,
      dt_limit=dt_limit,
      dtype=dtype,
      rngs=rngs,
    )

  def __call__(
    self,
    u: jax.Array,
    cache: _mixer.Cache | None = None,
    mask: jax.Array | None = None,
  ) -> tuple[jax.Array, _mixer.Cache]:
    """(b, n, features) to the same, and what it keeps; see `Mixer`."""
    y, cache = self.mixer(_blocks.norm(self.norm, u), cache, mask)
    return u + y.astype(u.dtype), cache


class Mamba2(nnx.Module):
  """A table of words, a stack of layers, a norm, a head."""

  def __init__(
    self,
    vocab_size: int,
    *,
    layers: int,
    sizes: _mixer.Sizes,
    chunk: int,
    tied: bool,
    eps: float,
    dt_limit: tuple[float, float],
    remat: nn.Remat,
    dtype: Any,
    rngs: nnx.Rngs,
  ):
    """Makes the network; for the arguments and errors see `mamba2`."""
    self.depth, self.sizes = layers, sizes
    nn.check_remat(remat)
    self.remat: nn.Remat = remat
    self.dtype = dtype
    self.words = nn.name_axes(
      nnx.Embed(
        vocab_size,
        sizes.features,
        dtype=dtype,
        embedding_init=_blocks.INIT,
        rngs=rngs,
      ),
      embedding=("vocab", "embed"),
    )

    def layer(rngs: nnx.Rngs) -> Layer:
      return Layer(
        sizes,
        layers=layers,
        chunk=chunk,
        eps=eps,
        dt_limit=dt_limit,
        dtype=dtype,
        rngs=rngs,
      )

    self.layers = nn.stack(layer, layers, rngs)
    self.norm = nnx.RMSNorm(sizes.features, epsilon=eps, dtype=dtype, rngs=rngs)
    self.head: nnx.Linear | None = nnx.data(None)
    if not tied:
      head = _blocks.linear(
        sizes.features, vocab_size, dtype, rngs, use_bias=False
      )
      self.head = nn.name_axes(head, kernel=("embed", "vocab"))

  def init_cache(
    self, batch: int, length: int = 0, dtype: Any = None
  ) -> _mixer.Cache:
    """The cache before the first token; of the same size for any length.

    Args:
      batch: number of texts.
      length: tokens that it must hold: any.
      dtype: of the convolutions' inputs; None: the model's.
    """
    del length
    dtype = self.dtype if dtype is None else dtype
    return _mixer.empty(self.sizes, batch, dtype, self.depth)

  def __call__(
    self,
    tokens: jax.Array,
    *,
    token_mask: jax.Array | None = None,
    cache: _mixer.Cache | None = None,
    taps: bool = False,
  ) -> Any:
    """(b, n) tokens to (b, n, vocab_size) scores of each next token.

    Args:
      tokens: numbers of words; n may be 0.
      token_mask: 0, or False, where there is only padding, on the right; what
        stands before it is as without it, and its own scores mean nothing.
      cache: of the tokens before these; None: there are none. With a mask,
        each text goes on by its own number of tokens.
      taps: whether to return `models.Outputs`; its `hidden` is what enters
        each layer, and what leaves the last, before the norm; it has no
        queries, keys and values.

    Returns:
      Logits; with a cache, (that, the new cache). A row with padding in front
      of tokens, where only the compiled program knows, has NaN; so has a whole
      chunk with a token whose features are NaN.

    Raises:
      errors.UserError: if the tokens have another shape than the mask or the
        cache, or padding is not on the right.
    """
    _tokens_in.counts(tokens, token_mask)
    if cache is not None:
      _check_cache(cache, self.depth, len(tokens))

    def run(layer: Layer, u: jax.Array, *rest: Any) -> tuple[jax.Array, Any]:
      kept = rest[-1] if cache is not None else None
      new, kept = layer(u, kept, rest[0])
      seen = u if taps else None
      return new, (seen, kept if cache is not None else None)

    x = self.words(tokens).astype(jnp.float32)
    x, (seen, new) = nn.scan(
      self.layers, x, token_mask, each=cache, call=run, remat=self.remat
    )
    y = _blocks.norm(self.norm, _tokens_in.spoilt(x, token_mask))
    out = self.words.attend(y) if self.head is None else self.head(y)
    if taps:
      nothing: Any = None  # there is no attention
      hidden = jnp.concatenate([seen, x[None]])
      out = _base.Outputs(out, hidden, nothing, nothing, nothing)
    return out if cache is None else (out, new)


def _check_cache(cache: _mixer.Cache, depth: int, rows: int) -> None:
  """Refuses a cache of other rows or layers.

  Raises:
    errors.UserError: with both numbers of each.
  """
  has = cache.state.shape[:2]
  if has != (depth, rows):
    raise errors.UserError(
      f"the cache is of {has[0]} layers and {has[1]} rows; the model has"
      f" {depth} layers, and {rows} rows of tokens were given: make it with"
      f" model.init_cache({rows})"
    )


@_base.REGISTRY.register
def mamba2(
  vocab_size: int = 50288,
  *,
  layers: int = 24,
  features: int = 768,
  expand: int = 2,
  head_dim: int = 64,
  state: int = 128,
  groups: int = 1,
  conv_width: int = 4,
  chunk: int = 256,
  tied: bool = True,
  eps: float = 1e-5,
  dt_limit: tuple[float, float] = (0.0, math.inf),
  remat: nn.Remat = "none",
  dtype: Any = jnp.float32,
  rngs: nnx.Rngs,
) -> Mamba2:
  """Mamba-2 of any size: `u + mixer(norm(u))` layers, a norm, a head.

  Of each layer's mixer, `[z, x, B, C, dt] = in_proj(u)`; x, B and C go through
  a causal convolution of each channel and a SiLU; `dt = clip(softplus(dt +
  dt_bias), dt_limit)` and `a = -exp(A_log)` make the state space (`nn.ssd`) of
  each head, to which `D x` is added; the result, gated by z and normalized
  (`nn.GatedRMSNorm`), goes through `out_proj`. States and the residual stream
  are float32, whatever the dtype.

  A call takes `token_mask`, `cache` (`model.init_cache`) and `taps`, all by
  name. One token takes the recurrent step, any other number the chunks; with a
  cache both go on where it ends, and give what the whole text would.

  Starts as the authors' code: projections and convolutions U(-1, 1) /
  sqrt(fan_in), `out_proj` divided by sqrt(layers) as well, words N(0, 0.02),
  dt from 0.001 to 0.1 in logarithms, `-a` from U(1, 16), D of ones. `A_log`,
  `D` and `dt_bias` say that weight decay leaves them alone (`nn.undecayed`),
  as the authors mark them; Bi-Mamba's recipe overlooks the marks, and decays
  all there is (weight decay that reaches "all").

  Args:
    vocab_size: words, and scores.
    layers: their number.
    features: of a token.
    expand: times as many features in the state space.
    head_dim: of them, in each head.
    state: length of B and C.
    groups: of heads, that share B and C; the norm's too.
    conv_width: tokens that the convolution sees.
    chunk: tokens of a chunk of `nn.ssd`.
    tied: whether the head is the table of words; else it has its own kernel.
    eps: of the norms.
    dt_limit: least and greatest dt. The authors' one-token step forgets it;
      here both forms have it.
    remat: "none", "full" or "dots": what the backward pass computes again; see
      `nn.scan`.
    dtype: of the computation.
    rngs: for the parameters.

  Raises:
    errors.UserError: if heads do not share the features evenly, or groups the
      heads.
  """
  low, high = dt_limit if len(dt_limit) == 2 else (1.0, 0.0)
  if not 0 <= low <= high:
    raise errors.UserError(
      f"mamba2: dt_limit is {tuple(dt_limit)}; take the least and the greatest"
      " step size, from 0 up"
    )
  if chunk < 1:
    raise errors.UserError(f"mamba2: chunk is {chunk}; take 1 or more")
  return Mamba2(
    vocab_size,
    layers=layers,
    sizes=_mixer.Sizes(features, expand, head_dim, state, groups, conv_width),
    chunk=chunk,
    tied=tied,
    eps=eps,
    dt_limit=(float(low), float(high)),
    remat=remat,
    dtype=dtype,
    rngs=rngs,
  )


@_base.REGISTRY.register
@_blocks.size_of(mamba2)
def mamba2_130m() -> Mapping[str, Any]:
  """130 million parameters: 24 layers, 768 features; options as `mamba2`."""
  return {"layers": 24, "features": 768}


@_base.REGISTRY.register
@_blocks.size_of(mamba2)
def mamba2_780m() -> Mapping[str, Any]:
  """780 million parameters: 48 layers, 1536 features; options as `mamba2`."""
  return {"layers": 48, "features": 1536}


@_base.REGISTRY.register
@_blocks.size_of(mamba2)
def mamba2_1_3b() -> Mapping[str, Any]:
  """1.3 billion parameters: 48 layers, 2048 features; options as `mamba2`."""
  return {"layers": 48, "features": 2048}


@_base.REGISTRY.register
@_blocks.size_of(mamba2)
def mamba2_2_7b() -> Mapping[str, Any]:
  """2.7 billion parameters: 64 layers, 2560 features; options as `mamba2`."""
  return {"layers": 64, "features": 2560}
