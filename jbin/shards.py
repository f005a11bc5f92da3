"""Inside `jax.shard_map`: values that differ between devices, or do not."""

from __future__ import annotations

from typing import Any, TypeVar

import jax
from jax import lax

T = TypeVar("T")


def varying_alike(tree: T) -> T:
  """Arrays that all vary over the mesh axes that any of them varies over.

  A `custom_vjp` must give cotangents that vary as its arguments do. The
  gradient of what is the same on each device is then summed over the devices
  outside of it. Outside of `jax.shard_map` nothing varies, and nothing is done.

  Args:
    tree: a pytree of arrays; random keys are left as they are.
  """
  axes = frozenset[Any]().union(*map(_axes_of, jax.tree.leaves(tree)))

  def widen(x: Any) -> Any:
    missing = tuple(axes - _axes_of(x))
    if not missing or jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
      return x
    return lax.pcast(x, missing, to="varying")

  return jax.tree.map(widen, tree) if axes else tree


def _axes_of(x: Any) -> frozenset[Any]:
  if not isinstance(x, jax.Array):
    return frozenset()
  manual = getattr(jax.typeof(x), "manual_axis_type", None)
  return manual.varying if manual is not None else frozenset()
