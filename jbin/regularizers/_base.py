"""What every regularizer shares: the registry, and what it is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jbin import registry

REGISTRY = registry.Registry("regularizer")


def total(part: Callable[[jax.Array], jax.Array], weights: Any) -> jax.Array:
  """The sum of `part(w)` over the tensors of a tree; float32, 0 for none.

  Args:
    part: (tensor, in float32) -> scalar.
    weights: a tree of floating tensors, one for each layer.
  """
  leaves = jax.tree.leaves(weights)
  parts = (part(jnp.asarray(leaf).astype(jnp.float32)) for leaf in leaves)
  return sum(parts, start=jnp.zeros((), jnp.float32))
