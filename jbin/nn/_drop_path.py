"""Stochastic depth: a branch of a block is left out of some examples."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from jbin import errors


class DropPath(nnx.Module):
  """Leaves a residual branch out of some examples (stochastic depth).

  Training, `y = x keep / (1 - rate)`, `keep` being 1 with probability
  `1 - rate` and 0 else, one draw for each example (axis 0); backward
  `dx = dy keep / (1 - rate)`. Where it is `deterministic`, as in the view for
  evaluation, `y = x`. A rate of 1 gives 0.

  Blocks of a stack have rates of their own, growing with depth, by the
  argument of the call: `nn.scan(stack, x, each=rates)`.

  Reference: Huang et al., Deep Networks with Stochastic Depth, 2016 (arXiv
  1603.09382); the scale of training is that of later code.
  """

  def __init__(
    self,
    rate: float | None = None,
    *,
    deterministic: bool = False,
    rngs: nnx.Rngs | None = None,
  ):
    """Makes the layer.

    Args:
      rate: the share of examples, from 0 to 1; None: each call gives it. 0:
        nothing is dropped, whatever a call says, and no stream is kept.
      deterministic: whether nothing is dropped, until a view says otherwise.
      rngs: its stream "dropout", where the rate is not 0.

    Raises:
      errors.UserError: for another rate, or one without `rngs`.
    """
    if rate is not None and not 0 <= rate <= 1:
      raise errors.UserError(
        f"DropPath: the rate is a share from 0 to 1, not {rate}"
      )
    self.rate = rate
    self.deterministic = deterministic
    self.rngs = nnx.data(None)
    if rate != 0:
      if rngs is None:
        raise errors.UserError("DropPath draws random numbers; give it rngs")
      self.rngs = rngs["dropout"].fork()

  def __call__(
    self, x: jax.Array, rate: float | jax.Array | None = None
  ) -> jax.Array:
    """(examples, ...) to the same.

    Args:
      x: what the branch gives.
      rate: of this call, a number or a traced scalar; None for the layer's.

    Raises:
      errors.UserError: if neither has one.
    """
    if self.rngs is None or self.deterministic:
      return x
    rate = self.rate if rate is None else rate
    if rate is None:
      raise errors.UserError(
        "DropPath: neither the layer nor the call has a rate; give one"
      )
    keep = 1 - jnp.asarray(rate, jnp.float32)
    shape = (x.shape[0],) + (1,) * (x.ndim - 1)
    kept = jax.random.bernoulli(self.rngs(), keep, shape)
    return x * jnp.where(kept, 1 / keep, 0).astype(x.dtype)

  def set_view(self, deterministic: bool | None = None) -> None:
    """What `nnx.view` calls."""
    if deterministic is not None:
      self.deterministic = deterministic
