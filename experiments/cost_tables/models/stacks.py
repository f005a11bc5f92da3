"""A stack of equal layers, as one layer with stacked parameters, scanned."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from flax import nnx
from jax import lax

M = TypeVar("M", bound=nnx.Module)


def of(make: Callable[..., M], depth: int, *, rngs: Any) -> M:
  """`depth` layers `make(rngs=...)`; a leading axis is added to all arrays."""
  keys = jax.random.split(rngs.params(), depth)

  @functools.partial(nnx.vmap, in_axes=0, out_axes=0)
  def build(key: jax.Array) -> M:
    return make(rngs=nnx.Rngs(key))

  return build(keys)


def run(layers: nnx.Module, x: jax.Array, *rest: jax.Array) -> jax.Array:
  """`x` through all layers, which also take `rest`."""
  return lax.scan(lambda x, layer: (layer(x, *rest), None), x, layers)[0]
