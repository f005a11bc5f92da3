"""BertAdam: Adam as BERT was trained, each gradient clipped by itself."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from jbin import nn, references
from jbin.optimizers import _base


class BertAdamState(NamedTuple):
  """Moving means of the gradient and of its square, float32."""

  m: Any
  v: Any


@_base.REGISTRY.register
@references.cites("bert")
def bert_adam(
  b1: float = 0.9, b2: float = 0.999, eps: float = 1e-6, clip_norm: float = 1.0
) -> optax.GradientTransformation:
  """BertAdam: moments that start at 0 and stay so, gradients clipped singly.

  `g <- g * min(1, clip_norm / (|g| + 1e-6))` with `|g|` the 2-norm of one
  parameter's gradient; `m <- b1 m + (1 - b1) g`, `v <- b2 v + (1 - b2) g^2`;
  the direction is `m / (sqrt(v) + eps)`, without Adam's correction for the
  start. With a decoupled weight decay of 0.01 and a rate of
  `schedules.warmup_linear` it is the optimizer of BERT and BiBERT.

  A parameter of a stack of layers counts as one for each layer, where the
  variable says so, as `nn.stack` has it do (`nn.stack_axes`); bare arrays say
  nothing.

  Args:
    b1: of the mean of gradients.
    b2: of the mean of squares.
    eps: beside the root.
    clip_norm: the largest norm of a parameter's gradient; 0: no clipping.

  Reference: Devlin et al., 2019 (arXiv 1810.04805).
  """

  def init(params: Any) -> BertAdamState:
    zeros = lambda w: jnp.zeros_like(w, jnp.float32)
    # Two trees: a step may take over the memory of both.
    return BertAdamState(
      jax.tree.map(zeros, params), jax.tree.map(zeros, params)
    )

  def update(
    updates: Any, state: Any, params: Any = None
  ) -> tuple[Any, BertAdamState]:
    del params
    leaves, tree = jax.tree.flatten(updates)
    grads = [
      _clipped(g.astype(jnp.float32), axes, clip_norm)
      for g, axes in zip(leaves, _stack_axes(updates), strict=True)
    ]
    g = tree.unflatten(grads)
    m = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.m, g)
    v = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.v, g)
    found = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), m, v)
    return found, BertAdamState(m, v)

  return optax.GradientTransformation(init, update)


def _clipped(g: jax.Array, axes: int, most: float) -> jax.Array:
  """`g` with a norm of at most `most`, of each layer of a stack."""
  if not most:
    return g
  over = range(axes, g.ndim)
  # Scaled by the largest entry, so that no square overflows.
  top = jnp.max(jnp.abs(g), over, keepdims=True)
  safe = jnp.where(top > 0, top, 1.0)
  norm = top * jnp.sqrt(jnp.sum(jnp.square(g / safe), over, keepdims=True))
  return g * jnp.minimum(1.0, most / (norm + 1e-6))


def _stack_axes(tree: Any) -> list[int]:
  """Of each leaf, in their order."""
  is_variable = lambda node: isinstance(node, nnx.Variable)
  found: list[int] = []
  for node in jax.tree.leaves(tree, is_leaf=is_variable):
    found += [nn.stack_axes(node)] * len(jax.tree.leaves(node))
  return found
