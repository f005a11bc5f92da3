"""Kernel-based hash codes that learn which tokens attend to each other."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import core

from jbin import bits as bits_lib, errors, quantizers, references
from jbin.nn import _hash_learning

# Lengths and mean distances below it count as it: no division by 0.
_LEAST = 1e-12


class HashState(nnx.Variable[jax.Array]):
  """What `fit` sets: saved with the rest, not trained by gradients."""


class Hash(NamedTuple):
  """The numbers of a hash; gradients pass by all of them.

  Attributes:
    anchors: (heads, anchors, head_dim), of length 1.
    means: (heads, anchors), of the kernel.
    weights: (heads, bits, anchors).
  """

  anchors: jax.Array
  means: jax.Array
  weights: jax.Array


def unit(x: jax.Array) -> jax.Array:
  """`x / max(|x|, 1e-12)` along the last axis, float32; 0 at 0."""
  x = x.astype(jnp.float32)
  square = jnp.square(x).sum(-1, keepdims=True)
  return x / jnp.sqrt(jnp.maximum(square, _LEAST**2))


def _square_distances(z: jax.Array, anchors: jax.Array) -> jax.Array:
  apart = z[..., None, :] - anchors[None, None]
  # What a published energy table charges for, by its name.
  square = jnp.square(bits_lib.mark(apart, "kernel_distance")).sum(-1)
  # Else XLA takes their mean from the squares anew, and then stores these.
  return jax.lax.optimization_barrier(square)


_distances = jax.custom_vjp(_square_distances)
_Pair = tuple[jax.Array, jax.Array]


def _distances_forward(
  z: jax.Array, anchors: jax.Array
) -> tuple[jax.Array, _Pair]:
  return _square_distances(z, anchors), (z, anchors)


def _distances_backward(kept: _Pair, g: jax.Array) -> _Pair:
  # As products: the differences, as large as all tokens times the anchors,
  # need not be kept, nor made again.
  z, anchors = kept
  toward = jnp.einsum("nthm,hmd->nthd", g, anchors)
  return 2 * (z * g.sum(-1, keepdims=True) - toward), jnp.zeros_like(anchors)


_distances.defvjp(_distances_forward, _distances_backward)


def distances(z: jax.Array, anchors: jax.Array) -> jax.Array:
  """`|z - a|^2`: (n, tokens, heads, d), (heads, m, d) to (..., heads, m).

  Backward `dz = 2 sum_a g (z - a)`; the anchors get none.
  """
  return _distances(z, anchors)


def widths(distance: jax.Array) -> jax.Array:
  """The kernel's: the mean over tokens and anchors, (n, 1, heads, 1)."""
  return distance.mean((1, 3), keepdims=True)


def kernel(distance: jax.Array) -> jax.Array:
  """`exp(-distance / (2 width))`, the same shape; the width is its own."""
  # All tokens at all anchors: 0 / 0 would be no number.
  below = 2 * jnp.maximum(widths(distance), _LEAST)
  return jnp.exp(bits_lib.mark(-distance / below, "kernel_exponent"))


def responses(z: jax.Array, state: Hash) -> jax.Array:
  """What codes are the signs of.

  Args:
    z: unit tokens (n, tokens, heads, head_dim), float32.
    state: the hash.

  Returns:
    (n, tokens, heads, bits) `(kernel(|z - a|^2) - mean) W^T`. Its gradient
    flows to `z`, through the kernel's width too, and to nothing else.
  """
  state = jax.lax.stop_gradient(state)
  centred = kernel(distances(z, state.anchors)) - state.means[None, None]
  return jnp.einsum("nthm,hbm->nthb", centred, state.weights)


def codes(z: jax.Array, state: Hash) -> jax.Array:
  """Signs of `responses`, float32, tagged as 1 bit; shapes as there.

  Backward `dy [|response| < 1]`: straight through, without the edge. At zero
  +1.
  """
  return quantizers.sign(edge="open")(responses(z, state)).value


def learn(
  z: jax.Array,
  positions: jax.Array,
  weights: jax.Array,
  how: _hash_learning.HashLearning,
) -> tuple[Hash, jax.Array]:
  """The hash whose codes tell near tokens from far ones.

  Args:
    z: unit tokens (n, tokens, heads, head_dim), float32.
    positions: (m,) tokens of the first example that become the anchors.
    weights: (heads, bits, m) to start from.
    how: the hyper-parameters.

  Returns:
    The hash and (bits, iterations) the relaxed loss before each step.
  """
  z = jax.lax.stop_gradient(z)
  anchors = jnp.swapaxes(z[0, positions], 0, 1)
  near = kernel(distances(z, anchors))
  means = near.mean((0, 1))
  centred = jnp.swapaxes(near - means[None, None], 1, 2)
  pairs = _hash_learning.pairs(jnp.swapaxes(z, 1, 2), how.similar)
  weights, history = _hash_learning.greedy(centred, pairs, weights, how)
  return Hash(anchors, means, weights), history


@references.cites("ecoformer")
class KernelHash(nnx.Module):
  """A code of -1 and +1 for each token and head (EcoFormer's, KSH).

  `code(x) = sign(W (kappa(z) - mean))`, `z = x / |x|`,
  `kappa_j(z) = exp(-|z - anchor_j|^2 / (2 width))`, the width being the mean
  of all squared distances of this very input, for each example and head.
  Backward: straight through the sign where `|.| < 1`, and through kernel,
  width and norm to `x`; anchors, means and W are `HashState`, which only
  `fit` sets. At zero: +1.

  `fit` takes tokens of the first example as anchors, and W bit by bit so that
  codes agree on the pairs of largest `z z^T` of each row, and disagree on
  those of the smallest (`jbin.nn.HashLearning` has how).

  A hash that is not fitted has no codes: eager calls raise, and what is
  compiled, where nobody can look, gives NaN by `ready`, in `nn.HashAttention`.
  The training loop fits every hash on its first batch, `nn.calibrate` on the
  batch that it is given: both call the twin of
  `nnx.view(model, calibrating=True)`, in which a hash that is not fitted fits
  itself on what it sees.

  Reference: Liu et al., 2022 (arXiv 2209.09004); Liu et al., Supervised
  Hashing with Kernels, 2012. Differs from the code in: sign(0) = +1; distances
  and lengths of 0 make no NaN; a batch that is split over devices counts as
  one; a NaN while it learns keeps the former weights, and does not abort;
  fitting again every 300 epochs, which no published run is long enough for,
  is left out.
  """

  def __init__(
    self,
    heads: int,
    head_dim: int,
    bits: int = 16,
    anchors: int = 25,
    *,
    learning: _hash_learning.HashLearning | None = None,
    rngs: nnx.Rngs,
  ):
    """Makes a hash that is not fitted yet.

    Args:
      heads: of the tokens.
      head_dim: length of the last axis.
      bits: of a code.
      anchors: tokens that others are compared with.
      learning: how it is fitted; None for the paper's way.
      rngs: stream "params", for W's start and the choice of anchors.

    Raises:
      errors.UserError: if there are no heads, channels, bits or anchors.
    """
    if min(heads, head_dim, bits, anchors) < 1:
      raise errors.UserError(
        f"KernelHash: heads={heads}, head_dim={head_dim}, bits={bits},"
        f" anchors={anchors}; each is 1 or more"
      )
    self.shape = (heads, head_dim)
    self.learning = learning or _hash_learning.HashLearning()
    zeros = functools.partial(jnp.zeros, dtype=jnp.float32)
    self.anchors = HashState(zeros((heads, anchors, head_dim)))
    self.means = HashState(zeros((heads, anchors)))
    self.weights = HashState(
      jax.random.normal(rngs.params(), (heads, bits, anchors))
    )
    self.seed = HashState(jax.random.key_data(rngs.params()))
    self.fitted = HashState(jnp.zeros((), bool))
    self.calibrating = False

  @property
  def state(self) -> Hash:
    """Its numbers."""
    return Hash(self.anchors[...], self.means[...], self.weights[...])

  def _units(self, x: jax.Array) -> jax.Array:
    """Checked, as unit vectors, with one batch axis."""
    if x.ndim < 3 or x.shape[-2:] != self.shape:
      heads, size = self.shape
      raise errors.UserError(
        f"KernelHash: expected (batch..., tokens, {heads}, {size}), got"
        f" {x.shape}"
      )
    return unit(jnp.reshape(x, (-1, *x.shape[-3:])))

  def fit(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
    """Learns the hash from tokens, in place, also one that is fitted.

    It needs memory for `2 similar` indices a token, 256 rows of the
    attention map and the kernel; no map of all pairs is made. 32 examples of
    3,136 tokens with one head of 32 take 402 MiB as XLA has it on a CPU, a
    third of one such map.

    Args:
      x: (batch..., tokens, heads, head_dim).
      key: which tokens become anchors; None for the one of creation.

    Returns:
      (bits, iterations) the relaxed loss before each step.

    Raises:
      errors.UserError: if the tokens are fewer than the anchors, or than
        `similar`.
    """
    found, history = self._learned(self._units(x), key)
    self._set(found)
    return history

  def _learned(
    self, z: jax.Array, key: jax.Array | None = None
  ) -> tuple[Hash, jax.Array]:
    tokens, anchors = z.shape[1], self.anchors.shape[-2]
    least = max(anchors, self.learning.similar)
    if tokens < least:
      raise errors.UserError(
        f"KernelHash: {tokens} tokens are too few to learn from; it needs"
        f" {least} or more: {anchors} become anchors, and each is compared"
        f" with the {self.learning.similar} nearest"
      )
    drawn = jax.random.wrap_key_data(self.seed[...]) if key is None else key
    positions = jax.random.permutation(drawn, tokens)[:anchors]
    return learn(z, positions, self.weights[...], self.learning)

  def _set(self, found: Hash) -> None:
    for name, value in found._asdict().items():
      getattr(self, name).set_value(value)
    self.fitted.set_value(jnp.ones((), bool))

  def ready(self, value: float) -> jax.Array:
    """`value`, or NaN while the hash is not fitted; a float32 scalar."""
    return jnp.where(self.fitted[...], jnp.float32(value), jnp.nan)

  def __call__(self, x: jax.Array) -> jax.Array:
    """(batch..., tokens, heads, head_dim) to (..., heads, bits), float32.

    Raises:
      errors.UserError: if the hash is not fitted, where that can be seen.
    """
    z = self._units(x)
    if self.calibrating:
      fit = lambda z: self._learned(z)[0]
      keep = lambda _: self.state
      self._set(jax.lax.cond(self.fitted[...], keep, fit, z))
    fitted = self.fitted[...]
    if not isinstance(fitted, core.Tracer) and not fitted:
      raise errors.UserError(
        "KernelHash: it is not fitted; run jbin.nn.calibrate(model, batch)"
        " first, or its method fit (the training loop does it by itself)"
      )
    found = codes(z, self.state)
    return jnp.reshape(found, (*x.shape[:-1], found.shape[-1]))

  def set_view(self, calibrating: bool | None = None) -> None:
    """What `nnx.view` calls."""
    if calibrating is not None:
      self.calibrating = calibrating
