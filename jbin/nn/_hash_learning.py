"""How a kernel hash learns: greedy bits against a target of similar pairs."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jbin import errors

# Tokens whose row of the attention map is there at once.
_ROWS = 256


@dataclasses.dataclass(frozen=True)
class HashLearning:
  """How `nn.KernelHash` is fitted; the defaults are EcoFormer's.

  Target: S = +1 for the `similar` largest entries of each row of `z z^T`, -1
  for the `similar` smallest (these win where both are the same), else 0. Bits
  are learned one after another: for the r-th,

  `y = tanh(W_r (kappa - mean) / 2)`,
  `loss = -mean_{examples, heads} (bits y^T S y - sum_{k<r} (h_k^T y)^2) /
  (tokens bits)`,

  by `iterations` steps of gradient descent with Nesterov's momentum, `h_k`
  being the codes (-1, +1; -1 at 0) of the bits before. A bit's new weights
  stay if the loss with y's signs is below that of the old ones, for all heads
  together.

  Attributes:
    similar: pairs of each sign in a row.
    iterations: steps for each bit.
    rate: of a step.
    momentum: Nesterov's.

  Raises:
    errors.UserError: if there are no pairs, or fewer steps than none.
  """

  similar: int = 10
  iterations: int = 100
  rate: float = 5e-4
  momentum: float = 0.9

  def __post_init__(self) -> None:
    """Checks the numbers."""
    if self.similar < 1 or self.iterations < 0:
      raise errors.UserError(
        f"HashLearning: similar={self.similar}, iterations={self.iterations};"
        " a hash learns from 1 pair of each sign or more, in 0 steps or more"
      )


class Pairs(NamedTuple):
  """The rows of S by their entries that are not 0.

  Attributes:
    columns: (n, heads, tokens, 2 similar) of the row.
    sign: the same shape, float32: +1, -1, or 0 where a column is given twice.
  """

  columns: jax.Array
  sign: jax.Array


def pairs(z: jax.Array, similar: int) -> Pairs:
  """S of unit tokens (n, heads, tokens, d), some rows at a time."""

  def row(token: jax.Array) -> tuple[jax.Array, jax.Array]:
    near = jnp.einsum("nhd,nhtd->nht", token, z, precision="highest")
    return jax.lax.top_k(near, similar)[1], jax.lax.top_k(-near, similar)[1]

  rows = jnp.moveaxis(z, 2, 0)
  nearest, farthest = jax.lax.map(row, rows, batch_size=_ROWS)
  twice = (nearest[..., None] == farthest[..., None, :]).any(-1)
  sign = jnp.concatenate([1.0 - twice, -jnp.ones(farthest.shape)], -1)
  index = jnp.concatenate([nearest, farthest], -1)
  index, sign = (jnp.moveaxis(part, 0, 2) for part in (index, sign))
  return Pairs(index, sign.astype(jnp.float32))


def _agreement(y: jax.Array, found: Pairs) -> jax.Array:
  """`y^T S y`: (n, heads, tokens) to (n, heads)."""
  take = jax.vmap(jax.vmap(lambda y, index: y[index]))
  return (y * (take(y, found.columns) * found.sign).sum(-1)).sum(-1)


def greedy(
  kernel: jax.Array, found: Pairs, weights: jax.Array, how: HashLearning
) -> tuple[jax.Array, jax.Array]:
  """The weights of all bits, each learned with those before it at rest.

  Args:
    kernel: (n, heads, tokens, m), centred.
    found: the target.
    weights: (heads, bits, m) to start from.
    how: the hyper-parameters.

  Returns:
    (heads, bits, m), and the relaxed loss before each step, (bits,
    iterations).
  """
  examples, heads, tokens, _ = kernel.shape
  count = weights.shape[1]

  def loss(y: jax.Array, before: jax.Array) -> jax.Array:
    known = jnp.einsum("bnht,nht->bnh", before, y, precision="highest")
    gain = count * _agreement(y, found) - jnp.square(known).sum(0)
    return -gain.mean() / (tokens * count)

  def response(row: jax.Array) -> jax.Array:
    return jnp.einsum("nhtm,hm->nht", kernel, row, precision="highest")

  def signs(row: jax.Array) -> jax.Array:
    return jnp.where(response(row) > 0, 1.0, -1.0)

  def bit(before: jax.Array, item: Any) -> Any:
    number, start = item

    def relaxed(row: jax.Array) -> jax.Array:
      return loss(jnp.tanh(response(row) / 2), before)

    def step(carry: Any, _: None) -> Any:
      row, speed = carry
      value, slope = jax.value_and_grad(relaxed)(row)
      speed = how.momentum * speed + slope
      row = row - how.rate * (slope + how.momentum * speed)
      return (row, speed), value

    rest = jnp.zeros_like(start)
    (row, _), values = jax.lax.scan(
      step, (start, rest), None, length=how.iterations
    )
    old, new = signs(start), signs(row)
    better = loss(new, before) < loss(old, before)
    before = before.at[number].set(jnp.where(better, new, old))
    return before, (jnp.where(better, row, start), values)

  none = jnp.zeros((count, examples, heads, tokens), jnp.float32)
  each = (jnp.arange(count), jnp.swapaxes(weights, 0, 1))
  _, (rows, history) = jax.lax.scan(bit, none, each)
  return jnp.swapaxes(rows, 0, 1), history
