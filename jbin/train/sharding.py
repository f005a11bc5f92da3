"""Where every array lives: the mesh, one table of rules, and the check."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import jax
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jbin import errors, nn, shards

if TYPE_CHECKING:
  from jbin.train import config as config_lib

AXES = ("data", "fsdp", "tensor")
LOGICAL = {
  "embed": "fsdp",
  "vocab": "tensor",
  "heads": "tensor",
  "mlp": "tensor",
  "inner": "tensor",
}
"""What a model calls an axis of a parameter (`nn.name_axes`) -> the mesh's."""
SMALL = 2**10
"""Elements; smaller arrays are copied to every device rather than split."""


def of(settings: config_lib.Mesh) -> Mesh:
  """The mesh of a config; see `make_mesh`."""
  return make_mesh(settings.data, settings.fsdp, settings.tensor)


def make_mesh(
  data: int,
  fsdp: int,
  tensor: int = 1,
  *,
  devices: Sequence[Any] | None = None,
) -> Mesh:
  """A mesh with the axes `data`, `fsdp` and `tensor`.

  Args:
    data: devices along which the batch alone is split; -1: all left over.
    fsdp: devices along which parameters are split as well; -1: all left over.
    tensor: devices along which the features of layers are split, and with them
      their work, but not the batch; -1: all left over.
    devices: which; None: all of all processes. A mesh of a single process may
      use fewer, the first ones.

  Raises:
    errors.UserError: if the devices cannot be arranged so.
  """
  found = list(jax.devices() if devices is None else devices)
  sizes = [data, fsdp, tensor]
  if sizes.count(-1) > 1:
    raise errors.UserError("only one axis of the mesh may be -1; give a number")
  if -1 in sizes:
    rest = math.prod(sizes) * -1
    if len(found) % rest:
      raise errors.UserError(
        f"a mesh axis of {rest} does not divide {len(found)} devices; choose a"
        " divisor"
      )
    sizes[sizes.index(-1)] = len(found) // rest
  used = math.prod(sizes)
  if used > len(found) or (used < len(found) and jax.process_count() > 1):
    raise errors.UserError(
      f"mesh {_said((data, fsdp, tensor))} needs {used} devices and there are"
      f" {len(found)}; set one axis to -1 for all that are left"
    )
  return jax.make_mesh(
    tuple(sizes),
    AXES,
    axis_types=(AxisType.Auto,) * len(AXES),
    devices=found[:used],
  )


def _said(sizes: Sequence[int]) -> str:
  return ", ".join(f"{k}={n}" for k, n in zip(AXES, sizes, strict=True))


def spec(
  shape: Sequence[int],
  mesh: Mesh,
  names: Sequence[str | None] | None = None,
) -> PartitionSpec:
  """The rule for an array of the model or the optimizer.

  Arrays of fewer than `SMALL` elements are replicated. Axes with names are
  split as `LOGICAL` says, where the mesh's axis divides them. An array without
  names is split over `fsdp` along its largest axis that this divides (the last
  of equals).

  Raises:
    KeyError: if a name is not in `LOGICAL`.
  """
  if math.prod(shape) < SMALL:
    return PartitionSpec()
  if names is not None:
    split = [None if name is None else LOGICAL[name] for name in names]
    return _trimmed(
      axis if axis is not None and _splits(mesh, axis, n) else None
      for axis, n in zip(split, shape, strict=True)
    )
  fits = [i for i, n in enumerate(shape) if _splits(mesh, "fsdp", n)]
  if not fits:
    return PartitionSpec()
  best = max(fits, key=lambda i: (shape[i], i))
  return PartitionSpec(*([None] * best), "fsdp")


def _splits(mesh: Mesh, axis: str, n: int) -> bool:
  return mesh.shape[axis] > 1 and n % mesh.shape[axis] == 0


def _trimmed(axes: Iterable[str | None]) -> PartitionSpec:
  """Without what says nothing at the end."""
  found = list(axes)
  while found and found[-1] is None:
    found.pop()
  return PartitionSpec(*found)


def intended(tree: Any, mesh: Mesh) -> Any:
  """The sharding of each leaf of a tree of arrays or abstract arrays.

  Variables (also those of an optimizer, which follow the parameters) tell what
  their axes are.
  """
  shardings = []
  for node in jax.tree.leaves(tree, is_leaf=_is_variable):
    names = nn.axis_names(node)
    shardings += [
      NamedSharding(mesh, spec(leaf.shape, mesh, names))
      for leaf in jax.tree.leaves(node)
    ]
  return jax.tree.unflatten(jax.tree.structure(tree), shardings)


def _is_variable(node: Any) -> bool:
  return isinstance(node, nnx.Variable)


def replicated(mesh: Mesh) -> NamedSharding:
  """A copy on every device."""
  return NamedSharding(mesh, PartitionSpec())


def batch(mesh: Mesh) -> NamedSharding:
  """Split along the first axis over all devices but those of `tensor`."""
  return NamedSharding(mesh, PartitionSpec(shards.BATCH))


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
  parts = math.prod(mesh.shape[axis] for axis in shards.BATCH)
  if size % parts:
    below = size - size % parts
    above = below + parts
    raise errors.UserError(
      f"{key} {size} is not a multiple of the {parts} devices that share a"
      f" batch ({_said([*mesh.shape.values()])}); choose"
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
