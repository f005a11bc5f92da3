"""A layer's call whose result has a sharding that the caller names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jbin.nn import _quantizer


def call(
  function: Callable[..., jax.Array],
  out_sharding: Any,
  layer: nnx.Module,
  inputs: jax.Array,
) -> jax.Array:
  """`function(layer, inputs)`, sharded as `out_sharding` says.

  Where the mesh's axes are explicit they are Auto inside, for quantizers and
  products do not say what their shardings are. What the call changes in the
  layer is changed.

  Args:
    function: the layer's call.
    out_sharding: a `PartitionSpec` or `NamedSharding`, as Flax's layers take.
    layer: holds the variables.
    inputs: the array.

  Raises:
    ValueError: JAX's own, where there is no mesh, or an axis that
      `out_sharding` names is not explicit.
  """
  for _, part in nnx.iter_modules(layer):
    if isinstance(part, _quantizer.Quantizer) and part.watching:
      # The state that comes out has the variables of the one that goes in.
      part.seen = part.seen or _quantizer.QuantizerSeen(jnp.zeros(2))
  graph, state = nnx.split(layer)
  places = jax.tree.map(lambda leaf: jax.typeof(leaf).sharding.spec, state)

  def run(state: Any, inputs: jax.Array) -> tuple[jax.Array, Any]:
    inside = nnx.merge(graph, state)
    return function(inside, inputs), nnx.state(inside)

  outs = (out_sharding, places)
  automatic: Any = jax.sharding.auto_axes(run, out_sharding=outs)
  y, state = automatic(state, inputs)
  nnx.update(layer, state)
  return jax.sharding.reshard(y, out_sharding)
