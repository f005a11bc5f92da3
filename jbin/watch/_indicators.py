"""ReSTE's two numbers: how near an estimator is, how uneven gradients are."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jbin import references


@references.cites("reste")
def estimating_error(weights: Any, o: float | jax.Array) -> jax.Array:
  """How far ReSTE's estimator is from the sign on these weights.

  The sum over layers of `|| sign(w) - sign(w) |w|^(1/o) ||`, Euclidean, with
  sign(0) = 0. It falls as the power o grows.

  Args:
    weights: a tree of latent weights, floating, one tensor for each layer.
    o: the power, 1 or more, traced or not. The authors' code takes the one at
      the end of training, 3, throughout.

  Returns:
    A float32 scalar, without gradient; 0 for an empty tree.

  Reference: Wu et al., 2023 (arXiv 2308.06689).
  """

  def norm(w: jax.Array) -> jax.Array:
    size = jnp.abs(w)
    there = size > 0
    # 1 stands in for 0, which has no power.
    gap = jnp.where(there, 1 - jnp.power(jnp.where(there, size, 1), 1 / o), 0)
    return jnp.sqrt(jnp.square(gap).sum())

  return sum(map(norm, _layers(weights)), start=jnp.zeros((), jnp.float32))


@references.cites("reste")
def gradient_instability(grads: Any) -> jax.Array:
  """How uneven the gradients of the binary layers are (ReSTE).

  The sum over layers of the variance of |g| over its entries, unbiased.

  Args:
    grads: a tree of gradients of latent weights, floating, one tensor for
      each layer. The authors' code takes those of an epoch's last batch.

  Returns:
    A float32 scalar, without gradient; 0 for an empty tree, and for a layer
    of one weight.

  Reference: Wu et al., 2023 (arXiv 2308.06689).
  """

  def variance(g: jax.Array) -> jax.Array:
    size = jnp.abs(g)
    return jnp.square(size - size.mean()).sum() / max(size.size - 1, 1)

  return sum(map(variance, _layers(grads)), start=jnp.zeros((), jnp.float32))


def _layers(tree: Any) -> list[jax.Array]:
  """The tensors of a tree in float32, constant for a gradient."""
  leaves = jax.tree.leaves(tree)
  return [
    jax.lax.stop_gradient(jnp.asarray(leaf).astype(jnp.float32))
    for leaf in leaves
  ]
