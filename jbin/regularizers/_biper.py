"""BiPer's regularizer, and the errors that its authors report."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jbin import references
from jbin.regularizers import _base


@_base.REGISTRY.register
@references.cites("biper")
def biper(
  weights: Any,
  omega: float | jax.Array,
  tau: float | jax.Array,
  *,
  to_levels: bool = False,
) -> jax.Array:
  """Pulls the sines of latent weights to zero, or to their ends (BiPer).

  `R = tau * sum over layers of mean sin(omega w)^2`, with gradient
  `tau * omega * sin(2 omega w) / n` for a layer of n weights. Added to the
  loss it draws sin(omega w) to 0, where the sign turns.

  Args:
    weights: a tree of latent weights, floating, one tensor for each layer.
    omega: the frequency, that of the layers' `biper_weight`.
    tau: the strength: 0.037, then 0.0468 in the CIFAR-10 recipe's two stages;
      the ImageNet recipe has none.
    to_levels: `cos(omega w)^2` in place of the square of the sine, which
      draws sin(omega w) to -1 and +1: the same with the other sign, but for a
      constant. False is what the authors' code adds.

  Returns:
    A float32 scalar; 0 for an empty tree.

  Reference: Vargas et al., 2024 (arXiv 2404.01278). Differs from the code in:
  the code writes `1/2 - cos(2 omega w) / 2`, which is the same, and adds R to
  the validation loss too.
  """
  wave = jnp.cos if to_levels else jnp.sin

  def part(w: jax.Array) -> jax.Array:
    return jnp.square(wave(omega * w)).mean()

  return tau * _base.total(part, weights)


def biper_error(weights: Any, omega: float | jax.Array) -> jax.Array:
  """The quantization error that BiPer's code reports.

  `QE = sum over layers of mean |sin(omega w) - sign(sin(omega w))|`, with
  sign(0) = 0; about `1 - 2 / pi` for each layer where phases are uniform.

  Args:
    weights: a tree of latent weights, floating, one tensor for each layer.
    omega: the frequency.

  Returns:
    A float32 scalar, without gradient.
  """

  def part(w: jax.Array) -> jax.Array:
    sine = jnp.sin(omega * w)
    return jnp.abs(sine - jnp.sign(sine)).mean()

  return jax.lax.stop_gradient(_base.total(part, weights))


def biper_magnitude(weights: Any) -> jax.Array:
  """The b that BiPer's code reports: sum over layers of mean |w|.

  The scale of a Laplace distribution that fits the weights, added up; a
  float32 scalar, without gradient.

  Args:
    weights: a tree of latent weights, floating, one tensor for each layer.
  """
  total = _base.total(lambda w: jnp.abs(w).mean(), weights)
  return jax.lax.stop_gradient(total)
