"""The regularizers of BNN+: magnitudes near alpha."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jbin import errors, references
from jbin.regularizers import _base


def _total(
  penalty: Callable[[jax.Array], jax.Array], weights: Any, alpha: Any
) -> jax.Array:
  """The sum over layers of the mean penalty of `alpha - |w|`."""
  tensors = [
    jnp.asarray(leaf).astype(jnp.float32) for leaf in jax.tree.leaves(weights)
  ]
  given = jax.tree.leaves(alpha)
  if len(given) == 1:
    given = given * len(tensors)
  elif not given:
    given = [
      jax.lax.stop_gradient(jnp.abs(w).mean(keepdims=True)) for w in tensors
    ]
  if len(given) != len(tensors):
    raise errors.UserError(
      f"bnnplus: {len(given)} alphas for {len(tensors)} tensors; give one, or"
      " one for each, in a tree like that of the weights"
    )

  def part(pair: tuple[jax.Array, jax.Array]) -> jax.Array:
    w, level = pair
    return penalty(level - _magnitude(w)).mean()

  parts = (part(pair) for pair in zip(tensors, given, strict=True))
  return sum(parts, start=jnp.zeros((), jnp.float32))


def _magnitude(x: jax.Array) -> jax.Array:
  # |x| with the derivative 0 at 0.
  return x * jnp.sign(jax.lax.stop_gradient(x))


@_base.REGISTRY.register
@references.cites("bnnplus")
def bnnplus_r1(
  weights: Any, alpha: Any = None, tau: float | jax.Array = 1.0
) -> jax.Array:
  """Draws weights to -alpha and +alpha, by the distance (BNN+'s Manhattan).

  `R = tau * sum over layers of mean |alpha - |w||`, with gradient
  `-tau * sign(alpha - |w|) sign(w) / n` for a layer of n weights, and the
  sum of `tau * sign(alpha - |w|) / n` to alpha; sign(0) = 0.

  Args:
    weights: a tree of latent weights, floating, one tensor for each layer.
    alpha: a number; or a tree of numbers, one for each layer, learned where
      they are parameters (they broadcast with the tensors). None: mean |w| of
      each tensor, constant for the gradient.
    tau: the strength.

  Returns:
    A float32 scalar; 0 for an empty tree.

  Raises:
    errors.UserError: if there is neither one alpha nor one for each tensor.

  Reference: Darabi et al., 2018 (arXiv 1812.11800). Differs from the paper
  in: a mean over each layer's weights in place of a sum.
  """
  return tau * _total(_magnitude, weights, alpha)


@_base.REGISTRY.register
@references.cites("bnnplus")
def bnnplus_r2(
  weights: Any, alpha: Any = None, tau: float | jax.Array = 1.0
) -> jax.Array:
  """Draws weights to -alpha and +alpha, by the square (BNN+'s Euclidean).

  `R = tau * sum over layers of mean (alpha - |w|)^2`, with gradient
  `-2 tau (alpha - |w|) sign(w) / n` for a layer of n weights, and the sum of
  `2 tau (alpha - |w|) / n` to alpha; sign(0) = 0.

  Args:
    weights: a tree of latent weights, floating, one tensor for each layer.
    alpha: as in `bnnplus_r1`.
    tau: the strength.

  Returns:
    A float32 scalar; 0 for an empty tree.

  Raises:
    errors.UserError: if there is neither one alpha nor one for each tensor.

  Reference: Darabi et al., 2018 (arXiv 1812.11800). Differs from the paper
  in: a mean over each layer's weights in place of a sum.
  """
  return tau * _total(jnp.square, weights, alpha)
