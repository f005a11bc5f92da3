"""BONN's Bayesian kernel loss."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jbin import references
from jbin.regularizers import _base

_FLOOR = 1e-12  # of a variance: that of a constant channel is 0


@_base.REGISTRY.register
@references.cites("bonn")
def bonn(
  weights: Any,
  nu: float | jax.Array,
  strength: float | jax.Array = 1e-4,
) -> jax.Array:
  """Gathers each channel's weights around two modes +-mu (BONN's kernel loss).

  `R = strength / 2 * sum over layers, output channels and weights of
  (|w| - mu)^2 * (1 + nu / var) + nu * log(var)`, mu and var the mean and the
  variance of |w| over the channel (var at least 1e-12), both constant for the
  gradient: `dw = strength * (1 + nu / var) * (|w| - mu) * sign(w)`, sign(0)
  being 0. `mu sign(w)` is the binary kernel of the first term, +-mu are the
  modes of the second.

  Args:
    weights: a tree of latent weights, floating, output channels last, one
      tensor for each layer.
    nu: the weight of the Gaussian modes, 0 or more; no default, for we have
      no text that gives the paper's.
    strength: lambda, 0 or more.

  Returns:
    A float32 scalar; 0 for an empty tree.

  Reference: Gu et al., 2019 (arXiv 1908.06314). Written from memory of the
  paper; the authors' public code only evaluates, so no golden vector holds it.
  Differs from the paper in: its scales and modes are learned or estimated
  apart, here they are the channel's statistics, with one variance for all
  weights of a channel; the feature loss is left out.
  """

  def part(w: jax.Array) -> jax.Array:
    over = tuple(range(w.ndim - 1))
    size = jnp.abs(w)
    fixed = jax.lax.stop_gradient(size)
    mean = fixed.mean(over, keepdims=True)
    var = jnp.maximum(fixed.var(over, keepdims=True), _FLOOR)
    # Not |w|: its derivative at 0 is 1 in JAX.
    gap = w * jnp.sign(w) - mean
    each = jnp.square(gap) * (1 + nu / var) + nu * jnp.log(var)
    return each.sum()

  return 0.5 * strength * _base.total(part, weights)
