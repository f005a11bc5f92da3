"""Where values lie: split with the batch, or inside a `jax.shard_map`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
from jax import lax
from jax.sharding import AxisType, Mesh, PartitionSpec

P = ParamSpec("P")
T = TypeVar("T")

BATCH = ("data", "fsdp")
"""The axes of a mesh that examples are split along."""


def within(mesh: Mesh, function: Callable[P, T]) -> Callable[P, T]:
  """The function, traced so that `along_batch` knows the mesh.

  Args:
    mesh: of the devices; on a single one nothing is to be known.
    function: to be compiled.
  """
  if mesh.size == 1:
    return function

  def run(*args: P.args, **kwargs: P.kwargs) -> T:
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      return function(*args, **kwargs)

  return run


def along_batch(tree: T) -> T:
  """Arrays that lie as the batch does: their first axis split, no other.

  Where parameters are split along the features as well, XLA else may split
  activations so, and compute each example on all devices. Values are the same.
  Nothing is done outside of `within`, and for arrays that cannot be split.

  Args:
    tree: a pytree of arrays; those of less than two axes are left as they are.
  """
  mesh = jax.sharding.get_abstract_mesh()
  kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
  axes = tuple(axis for axis in BATCH if kinds.get(axis) == AxisType.Auto)
  parts = math.prod(mesh.shape[axis] for axis in axes)
  if parts == 1:
    return tree

  def lay(x: Any) -> Any:
    if not isinstance(x, jax.Array) or x.ndim < 2 or x.shape[0] % parts:
      return x
    return lax.with_sharding_constraint(x, PartitionSpec(axes))

  return jax.tree.map(lay, tree)


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
