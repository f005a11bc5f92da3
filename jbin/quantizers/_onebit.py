"""OneBit's weights: signs between two learned vectors of factors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jbin import errors, estimators, references
from jbin.quantizers import _base, _parts

_ROUNDS, _STILL = 100, 1e-6  # of the power iteration, and when it stands


@_base.REGISTRY.register
@references.cites("onebit")
@dataclasses.dataclass(frozen=True)
class onebit_weight(_base.Quantizer):  # noqa: N801 - named as a function is called
  """Signs times a factor of the input and one of the output (OneBit).

  Forward `y[i, o] = g[i] * sign(w[i, o]) * h[o]`; backward
  `dw = dy * g * h * (1.001 - tanh(w)^2)`, `dg[i] = sum dy * sign(w) * h`,
  `dh[o] = sum dy * sign(w) * g`. At zero: `+g * h`. The layer's result then
  goes through `nn.OutputNorm`, before the bias; the rule set "onebit" has both.

  The learned `input_factor` g (in,) and `weight_scale` h (out,) start as the
  best product of two vectors for |w|: its leading singular vectors, each with
  the root of the singular value. (Kernels with further axes, (..., in, out):
  for the mean of |w| over these.) A kernel of zeros starts with g = 1, h = 0.

  A factor for each input feature cannot be taken out of a product: products
  take the value.

  Attributes:
    zero: the sign at 0: PyTorch code has 0.0.

  Raises:
    errors.UserError: if the kernel has other features than the factors given.

  Reference: Xu et al., 2024 (arXiv 2402.11295). Differs from the paper in: a
  kernel stays as it is; the paper replaces a pretrained one by 0.01 * sign(w)
  once its factors are found, which a line of the user's does. sign(0) = +1.
  """

  bits: int = dataclasses.field(default=1, init=False, repr=False)
  zero: float = 1.0

  def quantize(self, x: jax.Array, now: _base.Now) -> _base.Quantized:
    """Binarizes a kernel `x` (..., in, out)."""
    parts = now["input_factor"], now["weight_scale"]
    sizes = _features(x)
    if tuple(part.shape for part in parts) != sizes:
      raise errors.UserError(
        f"onebit_weight: input_factor {parts[0].shape} and weight_scale"
        f" {parts[1].shape} are not those of a kernel {x.shape}, which needs"
        f" {sizes[0]} and {sizes[1]}; take them from parameters()"
      )
    left = _parts.along_last(parts[0], x.ndim - 1)[..., None]
    right = _parts.along_last(parts[1], x.ndim)
    return _base.signs(
      estimators.onebit_sign(x.astype(jnp.float32), zero=self.zero),
      left * right,
      dtype=x.dtype,
      factors=(left, right),
      keep_scale=True,
      zero=self.zero,
    )

  def parameters(
    self,
    channels: int,
    x: jax.Array | None = None,
    key: jax.Array | None = None,
  ) -> Mapping[str, jax.Array]:
    """Both factors, from the kernel."""
    del key
    if x is None:
      # Without a kernel its input features are unknown.
      scale = _parts.initial_magnitude(None, (), (channels,))
      return {"input_factor": jnp.ones(()), "weight_scale": scale}
    _features(x)
    sizes = jnp.abs(_parts.bounded(jax.lax.stop_gradient(x)))
    left, right = _rank_one(sizes.mean(range(x.ndim - 2)))
    return {"input_factor": left, "weight_scale": right}

  @property
  def calibrates(self) -> bool:
    """True: both start from the kernel."""
    return True


def _features(x: jax.Array) -> tuple[tuple[int], tuple[int]]:
  """The shapes of both factors."""
  _parts.other_axes(x.ndim, (-2, -1))  # refuses a kernel without such axes
  return (x.shape[-2],), (x.shape[-1],)


def _unit(v: jax.Array) -> tuple[jax.Array, jax.Array]:
  """A vector's direction and length; one of zeros has no direction."""
  length = jnp.linalg.norm(v)
  return v / jnp.where(length > 0, length, 1.0), length


@jax.jit
def _rank_one(a: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Vectors of equal length whose product is nearest to `a`, which is >= 0.

  Both are >= 0 too. Power iteration: a matrix of magnitudes has one singular
  value far above the others, so a few rounds do.
  """
  largest = a.max()
  a = a / jnp.where(largest > 0, largest, 1.0)

  def turn(right: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    left, _ = _unit(jnp.matmul(a, right, precision="highest"))
    new, value = _unit(jnp.matmul(left, a, precision="highest"))
    return left, new, value

  def moves(state: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
    _, moved, count = state
    return (moved > _STILL) & (count < _ROUNDS)

  def step(
    state: tuple[jax.Array, jax.Array, jax.Array],
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    right, _, count = state
    new = turn(right)[1]
    return new, jnp.abs(new - right).max(), count + 1

  start = jnp.full(a.shape[1], a.shape[1] ** -0.5, jnp.float32)
  state = start, jnp.float32(jnp.inf), jnp.int32(0)
  right, _, _ = jax.lax.while_loop(moves, step, state)
  left, right, value = turn(right)
  root = jnp.sqrt(value * largest)
  return jnp.where(value > 0, root * left, 1.0), root * right
