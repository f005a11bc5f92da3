"""What transformers share: blocks, images as rows of tokens, marks.

Norms and biases of convolutions are marked (`jbin.bits.mark`), so that a rule
that charges for them can read their number off the program.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jbin import bits, errors, nn

P = ParamSpec("P")
M = TypeVar("M", bound=nnx.Module)
# Of a function, without what it takes and returns.
_NAMED = ("__module__", "__name__", "__qualname__", "__doc__")

# PyTorch's code truncates at two, not at two deviations, which is a normal
# distribution.
INIT = nnx.initializers.normal(0.02)


def size_of(
  factory: Callable[P, M],
) -> Callable[[Callable[[], Mapping[str, Any]]], Callable[P, M]]:
  """Decorator: a factory of one size of model, from what makes that size.

  What is decorated returns the arguments of `factory` that are the size. The
  size takes all others, by its signature too, and refuses these.

  Args:
    factory: takes all arguments.
  """
  whole = inspect.signature(factory)
  name = getattr(factory, "__name__", "")

  def decorate(size: Callable[[], Mapping[str, Any]]) -> Callable[P, M]:
    fixed = size()

    @functools.wraps(size, assigned=_NAMED)
    def make(*args: P.args, **kwargs: P.kwargs) -> M:
      for key in kwargs:
        if key in fixed:
          raise errors.UserError(
            f"{make.__name__}: '{key}' is {fixed[key]}, which makes the size;"
            f" '{name}' takes others"
          )
      return factory(*args, **{**fixed, **kwargs})

    free = [p for key, p in whole.parameters.items() if key not in fixed]
    make.__signature__ = whole.replace(parameters=free)  # pyright: ignore[reportAttributeAccessIssue]
    return make

  return decorate


def check_images(
  who: str, x: jax.Array, channels: int, side: int | None = None
) -> None:
  """Refuses what is no batch of a model's images.

  Args:
    who: for the message.
    x: should be (b, H, W, channels), of a pixel or more.
    channels: of the images.
    side: of the only ones that fit, H and W; None: any.

  Raises:
    errors.UserError: if it is not.
  """
  if x.ndim != 4 or x.shape[-1] != channels or 0 in x.shape[1:3]:
    raise errors.UserError(
      f"{who}: expected images (b, H, W, {channels}), got {x.shape}"
    )
  if side is not None and x.shape[1:3] != (side, side):
    raise errors.UserError(
      f"{who}: it has positions for images of {side}x{side} pixels, got"
      f" {x.shape[1]}x{x.shape[2]}; make it with their image_size, or give it"
      " images of its own"
    )


def hidden(features: int, ratio: float) -> int:
  """Features inside an MLP; a ratio of two whole numbers gives the first."""
  return round(ratio * features)


def norm(layer: nnx.Module, x: jax.Array) -> jax.Array:
  """A norm, whose elements are counted as "layer_norm"."""
  return bits.mark(layer(x), "layer_norm")  # pyright: ignore[reportCallIssue]


def conv(layer: nnx.Conv, x: jax.Array) -> jax.Array:
  """A convolution, whose additions of a bias are counted as "conv_bias"."""
  y = layer(x)
  return y if layer.bias is None else bits.mark(y, "conv_bias")


def layer_norm(
  features: int, eps: float, dtype: Any, rngs: nnx.Rngs
) -> nnx.LayerNorm:
  """A LayerNorm; its means are taken in float32, whatever the dtype."""
  return nnx.LayerNorm(features, epsilon=eps, dtype=dtype, rngs=rngs)


def linear(
  features: int,
  outputs: int,
  dtype: Any,
  rngs: nnx.Rngs,
  *,
  use_bias: bool = True,
) -> nnx.Linear:
  """A linear map as transformers start it: N(0, 0.02), bias 0."""
  return nnx.Linear(
    features,
    outputs,
    use_bias=use_bias,
    dtype=dtype,
    kernel_init=INIT,
    rngs=rngs,
  )


def patch_embedding(
  in_features: int, features: int, patch: int, dtype: Any, rngs: nnx.Rngs
) -> nnx.Conv:
  """(N, H, W, in_features) to (N, H / patch, W / patch, features)."""
  return nnx.Conv(
    in_features,
    features,
    (patch, patch),
    (patch, patch),
    padding="VALID",
    dtype=dtype,
    kernel_init=INIT,
    rngs=rngs,
  )


def attention(
  features: int,
  heads: int,
  *,
  qkv_bias: bool = True,
  dropout: float = 0.0,
  low_rank: int = 0,
  dtype: Any,
  rngs: nnx.Rngs,
) -> nn.MultiHeadAttention:
  """Self-attention; `qkv_bias=False` leaves only the output its bias.

  Each probability is dropped for itself; `low_rank` is as the layer has it.

  Raises:
    errors.UserError: if the heads do not share the features evenly.
  """
  if heads < 1 or features % heads:
    raise errors.UserError(
      f"an attention of {heads} heads cannot have {features} features; their"
      " number must be a multiple of the heads'"
    )
  made = nn.MultiHeadAttention(
    heads,
    features,
    low_rank=low_rank,
    dropout_rate=dropout,
    broadcast_dropout=False,
    dtype=dtype,
    kernel_init=INIT,
    rngs=rngs,
  )
  if not qkv_bias:
    for part in (made.query, made.key, made.value):
      part.use_bias = False
      part.bias = nnx.data(None)
  return made


def make_dropout(rate: float, rngs: nnx.Rngs) -> nnx.Dropout | None:
  """A dropout, or None where nothing is dropped: it would keep a stream."""
  return nnx.data(nnx.Dropout(rate, rngs=rngs) if rate else None)


class Mlp(nnx.Module):
  """Linear, exact GELU, linear."""

  def __init__(
    self, features: int, hidden: int, *, dtype: Any = None, rngs: nnx.Rngs
  ):
    """Makes both maps.

    Args:
      features: length of the last axis, before and after.
      hidden: its length between them.
      dtype: of the computation.
      rngs: for the kernels.
    """
    self.fc1 = linear(features, hidden, dtype, rngs)
    self.fc2 = linear(hidden, features, dtype, rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    """(..., features) to (..., features)."""
    return self.fc2(jax.nn.gelu(self.fc1(x), approximate=False))


class Block(nnx.Module):
  """A pre-norm transformer block around any attention and any MLP.

  `x += drop(attn(norm1(x)))`, then `x += drop(mlp(norm2(x)))`; to drop is
  dropout of elements, and of the whole branch of an example (stochastic
  depth).
  """

  def __init__(
    self,
    features: int,
    attn: nnx.Module,
    mlp: nnx.Module,
    *,
    eps: float = 1e-6,
    dropout: float = 0.0,
    drop_path: bool = False,
    dtype: Any = None,
    rngs: nnx.Rngs,
  ):
    """Makes the block.

    Args:
      features: length of the last axis.
      attn: (..., features) to the same.
      mlp: the same.
      eps: of the norms.
      dropout: rate, of what the branches give.
      drop_path: whether branches are dropped, at rates given with each call.
      dtype: of the norms' results.
      rngs: for the parameters and the draws.
    """
    self.norm1 = layer_norm(features, eps, dtype, rngs)
    self.attn = attn
    self.norm2 = layer_norm(features, eps, dtype, rngs)
    self.mlp = mlp
    self.dropout = make_dropout(dropout, rngs)
    self.drop_path: nn.DropPath | None = nnx.data(
      nn.DropPath(rngs=rngs) if drop_path else None
    )

  def attend(self, x: jax.Array) -> jax.Array:
    """What the attention makes of a normed input."""
    return self.attn(x)  # pyright: ignore[reportCallIssue]

  def __call__(self, x: jax.Array, rate: jax.Array | None = None) -> jax.Array:
    """(b, ..., features) to the same.

    Args:
      x: examples along the first axis.
      rate: at which a branch is dropped, of a block with `drop_path`.
    """
    return self.add(x, self.attend(norm(self.norm1, x)), rate)

  def add(
    self, x: jax.Array, y: jax.Array, rate: jax.Array | None
  ) -> jax.Array:
    """The block's input and what its attention gave, to the block's output."""
    x = x + self._dropped(y, rate)
    y = self.mlp(norm(self.norm2, x))  # pyright: ignore[reportCallIssue]
    return x + self._dropped(y, rate)

  def _dropped(self, y: jax.Array, rate: jax.Array | None) -> jax.Array:
    if self.dropout is not None:
      y = self.dropout(y)
    return y if self.drop_path is None else self.drop_path(y, rate)


def drop_rates(most: float, depth: int) -> np.ndarray:
  """(depth,) rates of stochastic depth: a line from 0 to `most`.

  Raises:
    errors.UserError: if it is no rate.
  """
  if not 0.0 <= most < 1.0:
    raise errors.UserError(
      f"drop_path is {most}; it must be a rate from 0 to 1, without 1"
    )
  return np.linspace(0.0, most, depth, dtype=np.float32)


def windows(x: jax.Array, size: int) -> jax.Array:
  """(b, H, W, c) to (b, windows, size * size, c); `size` divides H and W."""
  b, h, w, c = x.shape
  x = jnp.reshape(x, (b, h // size, size, w // size, size, c))
  x = jnp.moveaxis(x, 3, 2)
  return jnp.reshape(x, (b, -1, size * size, c))


def image(x: jax.Array, height: int) -> jax.Array:
  """`windows` undone: (b, windows, size * size, c) to (b, H, W, c)."""
  b, n, tokens, c = x.shape
  size = round(tokens**0.5)
  rows = height // size
  x = jnp.reshape(x, (b, rows, n // rows, size, size, c))
  x = jnp.moveaxis(x, 2, 3)
  return jnp.reshape(x, (b, height, -1, c))


def padded(x: jax.Array, multiple: int) -> jax.Array:
  """(b, H, W, c) with zeros below and on the right, to whole multiples."""
  rest = [-size % multiple for size in x.shape[1:3]]
  if not any(rest):
    return x
  return jnp.pad(x, ((0, 0), (0, rest[0]), (0, rest[1]), (0, 0)))
