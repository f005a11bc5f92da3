"""Where every array lives: the mesh, one table of rules, and the check."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jbin import errors

AXES = ("data", "fsdp")
SMALL = 2**10
"""Elements; smaller arrays are copied to every device rather than split."""


def make_mesh(
  data: int, fsdp: int, devices: Sequence[Any] | None = None
) -> Mesh:
  """A mesh with the axes `data` and `fsdp`.

  Args:
    data: devices along which the batch alone is split; -1: all left over.
    fsdp: devices along which parameters are split as well; -1: all left over.
    devices: which; None: all of all processes. A mesh of a single process may
      use fewer, the first ones.

  Raises:
    errors.UserError: if the devices cannot be arranged so.
  """
  found = list(jax.devices() if devices is None else devices)
  sizes = [data, fsdp]
  if sizes.count(-1) > 1:
    raise errors.UserError("only one axis of the mesh may be -1; give a number")
  if -1 in sizes:
    rest = data * fsdp * -1
    if len(found) % rest:
      raise errors.UserError(
        f"a mesh axis of {rest} does not divide {len(found)} devices; choose a"
        " divisor"
      )
    sizes[sizes.index(-1)] = len(found) // rest
  used = sizes[0] * sizes[1]
  if used > len(found) or (used < len(found) and jax.process_count() > 1):
    raise errors.UserError(
      f"mesh data={data}, fsdp={fsdp} needs {used} devices and there are"
      f" {len(found)}; set one axis to -1 for all that are left"
    )
  return jax.make_mesh(
    tuple(sizes),
    AXES,
    axis_types=(AxisType.Auto,) * len(AXES),
    devices=found[:used],
  )


def spec(shape: Sequence[int], mesh: Mesh) -> PartitionSpec:
  """The rule for an array of the model or the optimizer.

  An array of at least `SMALL` elements is split over `fsdp` along its largest
  axis that the axis size divides (the last of equals); others are replicated.
  """
  size = mesh.shape["fsdp"]
  fits = [i for i, n in enumerate(shape) if n % size == 0]
  if size == 1 or not fits or np.prod(shape) < SMALL:
    return PartitionSpec()
  split = max(fits, key=lambda i: (shape[i], i))
  return PartitionSpec(*([None] * split), "fsdp")


def intended(tree: Any, mesh: Mesh) -> Any:
  """The sharding of each leaf of a tree of arrays or abstract arrays."""
  return jax.tree.map(lambda x: NamedSharding(mesh, spec(x.shape, mesh)), tree)


def replicated(mesh: Mesh) -> NamedSharding:
  """A copy on every device."""
  return NamedSharding(mesh, PartitionSpec())


def batch(mesh: Mesh) -> NamedSharding:
  """Split along the first axis over all devices."""
  return NamedSharding(mesh, PartitionSpec(AXES))


def put(mesh: Mesh, tree: Any, *, split: bool = False) -> Any:
  """Host arrays on the devices: split as a batch, or a copy on each."""
  where = batch(mesh) if split else replicated(mesh)
  if split and jax.process_count() > 1:
    join = functools.partial(jax.make_array_from_process_local_data, where)
    return jax.tree.map(join, tree)
  return jax.device_put(tree, where)


def check_batch(key: str, size: int, mesh: Mesh) -> None:
  """Raises if `mesh` cannot share out a batch of that size.

  Raises:
    errors.UserError: naming the config key and the nearest sizes.
  """
  if size % mesh.size:
    below = size - size % mesh.size
    above = below + mesh.size
    raise errors.UserError(
      f"{key} {size} is not a multiple of the mesh's {mesh.size} devices"
      f" (data={mesh.shape['data']}, fsdp={mesh.shape['fsdp']}); choose"
      f" {f'{below} or {above}' if below else above}"
    )


def check(tree: Any, shardings: Any, when: str) -> None:
  """Asserts that every array lies where it was meant to.

  Args:
    tree: arrays.
    shardings: what `intended` gave for it.
    when: as "after creation", for the message.

  Raises:
    ValueError: naming the paths that lie elsewhere.
  """
  names = path_names(tree)
  leaves = zip(jax.tree.leaves(tree), jax.tree.leaves(shardings), strict=True)
  wrong = [
    f"{name} has {leaf.sharding}, not {want}"
    for name, (leaf, want) in zip(names, leaves, strict=True)
    if not leaf.sharding.is_equivalent_to(want, leaf.ndim)
  ]
  if wrong:
    raise ValueError(f"{when}: {'; '.join(wrong)}")


def path_names(tree: Any) -> list[str]:
  """A readable name for each leaf, as `params.stages.0.conv.kernel`."""
  paths, _ = jax.tree_util.tree_flatten_with_path(tree)
  return [".".join(_parts(path)) for path, _ in paths]


def _parts(path: Sequence[Any]) -> list[str]:
  parts = []
  for entry in path:
    for attribute in ("name", "key", "idx"):
      if hasattr(entry, attribute):
        parts.append(str(getattr(entry, attribute)))
        break
  if parts and parts[-1] == "value":  # of an nnx.Variable
    parts.pop()
  return parts
