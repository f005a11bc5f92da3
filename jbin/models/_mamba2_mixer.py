"""Mamba-2's mixer, which stands where a transformer has its attention."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jbin import errors, nn

# PyTorch's start of linear maps and convolutions: U(-1, 1) / sqrt(fan_in).
_uniform = functools.partial(
  nnx.initializers.variance_scaling, mode="fan_in", distribution="uniform"
)
# The step sizes of the heads at the start.
_LEAST, _MOST, _FLOOR = 1e-3, 1e-1, 1e-4


class Cache(NamedTuple):
  """What all layers keep of the tokens so far; a leading axis of layers."""

  inputs: jax.Array
  # The last of each convolution: (layers, b, conv_width - 1, channels).
  state: jax.Array
  # (layers, b, heads, head_dim, state), float32.


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Of a layer; see `mamba2`."""

  features: int
  expand: int
  head_dim: int
  state: int
  groups: int
  conv_width: int

  def __post_init__(self) -> None:
    """Checks that heads and groups come out even."""
    for name, size in dataclasses.asdict(self).items():
      if size < 1:
        raise errors.UserError(f"mamba2: {name} is {size}; take 1 or more")
    if self.inner % self.head_dim:
      raise errors.UserError(
        f"mamba2: expand * features = {self.expand} * {self.features} ="
        f" {self.inner} are no whole number of heads of head_dim ="
        f" {self.head_dim}; take a head_dim that divides {self.inner}"
      )
    if self.heads % self.groups:
      raise errors.UserError(
        f"mamba2: {self.heads} heads (expand * features / head_dim) cannot"
        f" share groups = {self.groups}; take a number of groups that divides"
        f" {self.heads}, or another head_dim"
      )

  @property
  def inner(self) -> int:
    """Features of the state's input and of the gate."""
    return self.expand * self.features

  @property
  def heads(self) -> int:
    """Their number."""
    return self.inner // self.head_dim

  @property
  def channels(self) -> int:
    """Of the convolution: the state's input, B and C."""
    return self.inner + 2 * self.groups * self.state


class Mixer(nnx.Module):
  """Projection, convolution, state space, gated norm, projection."""

  def __init__(
    self,
    sizes: Sizes,
    *,
    layers: int,
    chunk: int,
    eps: float,
    dt_limit: tuple[float, float],
    dtype: Any,
    rngs: nnx.Rngs,
  ):
    """Makes the mixer; for the arguments see `mamba2`."""
    self.sizes, self.chunk, self.dt_limit = sizes, chunk, dt_limit
    wide = sizes.inner + sizes.channels + sizes.heads
    linear = functools.partial(
      nnx.Linear, use_bias=False, dtype=dtype, rngs=rngs
    )
    self.in_proj = nn.name_axes(
      linear(sizes.features, wide, kernel_init=_uniform(1 / 3)),
      kernel=("embed", "inner"),
    )
    edge = 1 / math.sqrt(sizes.conv_width)
    self.conv = nnx.Conv(
      sizes.channels,
      sizes.channels,
      (sizes.conv_width,),
      feature_group_count=sizes.channels,
      padding="VALID",
      dtype=dtype,
      kernel_init=_uniform(1 / 3),
      bias_init=lambda key, *args: jax.random.uniform(
        key, *args, minval=-edge, maxval=edge
      ),
      conv_general_dilated=nn.depthwise_conv,
      rngs=rngs,
    )
    self.norm = nn.name_axes(
      nn.GatedRMSNorm(
        sizes.inner, groups=sizes.groups, epsilon=eps, dtype=dtype
      ),
      scale=("inner",),
    )
    self.out_proj = nn.name_axes(
      linear(
        sizes.inner, sizes.features, kernel_init=_uniform(1 / (3 * layers))
      ),
      kernel=("inner", "embed"),
    )
    heads = (sizes.heads,)
    draw = functools.partial(jax.random.uniform, shape=heads)
    least, most = math.log(_LEAST), math.log(_MOST)
    dt = jnp.exp(draw(rngs.params(), minval=least, maxval=most))
    dt = jnp.maximum(dt, _FLOOR)
    # softplus of it is dt.
    self.dt_bias = nn.undecayed(dt + jnp.log(-jnp.expm1(-dt)))
    self.A_log = nn.undecayed(
      jnp.log(draw(rngs.params(), minval=1.0, maxval=16.0))
    )
    self.D = nn.undecayed(jnp.ones(heads))

  def __call__(
    self,
    u: jax.Array,
    cache: Cache | None = None,
    mask: jax.Array | None = None,
  ) -> tuple[jax.Array, Cache]:
    """(b, n, features) to the same, and what it keeps.

    Args:
      u: any number of tokens; one of them takes the recurrent step.
      cache: of this layer, without an axis of layers; None: nothing came
        before.
      mask: (b, n), 0 or False where there is only padding, on the right.
    """
    b, n = u.shape[:2]
    sizes = self.sizes
    z, mixed, dt = jnp.split(
      self.in_proj(u), [sizes.inner, sizes.inner + sizes.channels], -1
    )
    if cache is None:
      cache = empty(sizes, b, mixed.dtype)
    inputs = jnp.concatenate([cache.inputs.astype(mixed.dtype), mixed], 1)
    x = jax.nn.silu(self.conv(inputs))
    x, bc = jnp.split(x, [sizes.inner], -1)
    x = jnp.reshape(x, (b, n, sizes.heads, sizes.head_dim))
    bc = jnp.reshape(bc, (b, n, 2, sizes.groups, sizes.state))
    y, state = self._space(
      x, self._steps(dt, mask), bc[:, :, 0], bc[:, :, 1], cache.state
    )
    y = y + _along(self.D[...], 4, 2) * x.astype(jnp.float32)
    y = self.norm(jnp.reshape(y, z.shape), z)
    kept = _last(inputs, sizes.conv_width - 1, mask)
    return self.out_proj(y), Cache(kept.astype(cache.inputs.dtype), state)

  def _steps(self, dt: jax.Array, mask: jax.Array | None) -> jax.Array:
    """(b, n, heads) in float32: 0 for padding, which moves no state."""
    dt = dt.astype(jnp.float32) + _along(self.dt_bias[...], 3, 2)
    dt = jax.nn.softplus(dt)
    if self.dt_limit != (0.0, math.inf):
      dt = jnp.clip(dt, *self.dt_limit)
    return dt if mask is None else jnp.where(mask[..., None] > 0, dt, 0.0)

  def _space(
    self,
    x: jax.Array,
    dt: jax.Array,
    b: jax.Array,
    c: jax.Array,
    state: jax.Array,
  ) -> tuple[jax.Array, jax.Array]:
    """The state space, by chunks; of one token, by its recurrence."""
    a = -jnp.exp(self.A_log[...].astype(jnp.float32))
    if x.shape[1] != 1:
      return nn.ssd(x, dt, a, b, c, chunk=self.chunk, state=state)
    y, state = nn.ssd_step(x[:, 0], dt[:, 0], a, b[:, 0], c[:, 0], state)
    return y[:, None], state


def _along(v: jax.Array, ndim: int, axis: int) -> jax.Array:
  """A vector as float32, for broadcasting along an axis."""
  shape = [1] * ndim
  shape[axis] = -1
  return jnp.reshape(v.astype(jnp.float32), shape)


def _last(inputs: jax.Array, count: int, mask: jax.Array | None) -> jax.Array:
  """The last `count` of (b, count + n, channels) that are no padding."""
  if mask is None:
    return inputs[:, inputs.shape[1] - count :]
  used = jnp.sum(mask > 0, 1, dtype=jnp.int32)
  places = used[:, None] + jnp.arange(count)[None]
  return jnp.take_along_axis(inputs, places[..., None], 1)


def empty(sizes: Sizes, batch: int, dtype: Any, *layers: int) -> Cache:
  """The cache of one layer, or of some, before the first token."""
  inputs = (*layers, batch, sizes.conv_width - 1, sizes.channels)
  state = (*layers, batch, sizes.heads, sizes.head_dim, sizes.state)
  return Cache(jnp.zeros(inputs, dtype), jnp.zeros(state, jnp.float32))
