"""Where every array lives: the mesh, one table of rules, and the check."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jbin import errors, nn, shards, tables

if TYPE_CHECKING:
  from jbin.train import config as config_lib

AXES = ("data", "fsdp", "sequence", "tensor")
LOGICAL, SMALL, spec = shards.LOGICAL, shards.SMALL, shards.spec
"""The rules, which layers know too; see `jbin.shards`."""


def of(settings: config_lib.Mesh) -> Mesh:
  """The mesh of a config; see `make_mesh`."""
  return make_mesh(
    settings.data,
    settings.fsdp,
    settings.tensor,
    sequence=settings.sequence,
  )


def make_mesh(
  data: int,
  fsdp: int,
  tensor: int = 1,
  *,
  sequence: int = 1,
  devices: Sequence[Any] | None = None,
) -> Mesh:
  """A mesh with the axes `data`, `fsdp`, `sequence` and `tensor`.

  Args:
    data: devices along which the batch alone is split; -1: all left over.
    fsdp: devices along which parameters are split as well; -1: all left over.
    tensor: devices along which the features of layers are split, and with them
      their work, but not the batch; -1: all left over.
    sequence: devices along which the tokens of a text are split, between the
      layers of models that can; -1: all left over.
    devices: which; None: all of all processes. A mesh of a single process may
      use fewer, the first ones.

  Raises:
    errors.UserError: if the devices cannot be arranged so.
  """
  found = list(jax.devices() if devices is None else devices)
  asked = [data, fsdp, sequence, tensor]
  sizes = [*asked]
  if sizes.count(-1) > 1:
    raise errors.UserError("only one axis of the mesh may be -1; give a number")
  if -1 in sizes:
    rest = math.prod(sizes) * -1
    if len(found) % rest:
      raise errors.UserError(
        f"a mesh axis of {rest} does not divide {len(found)} devices"
        f" ({_said(sizes)}); choose a divisor"
      )
    sizes[sizes.index(-1)] = len(found) // rest
  used = math.prod(sizes)
  if used > len(found) or (used < len(found) and jax.process_count() > 1):
    raise errors.UserError(
      f"mesh {_said(asked)} needs {used} devices and there are"
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
  """Split along the first axis over the devices of `data` and `fsdp`."""
  return NamedSharding(mesh, PartitionSpec(shards.BATCH))


def each_device(mesh: Mesh) -> NamedSharding:
  """Split along the first axis over all devices: one entry for each."""
  return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def share(mesh: Mesh, size: int) -> tuple[int, int]:
  """Which part of the rows of a batch this process reads: (index, count).

  Processes whose devices differ along other axes alone read the same rows.

  Args:
    mesh: of the devices of all processes.
    size: rows in a batch; see `check_batch`.

  Raises:
    errors.UserError: if the rows of some process are not one part of equal
      ones.
  """
  rows: dict[int, set[tuple[int, int]]] = {}
  for device, at in batch(mesh).devices_indices_map((size,)).items():
    start, stop, _ = at[0].indices(size)
    rows.setdefault(device.process_index, set()).add((start, stop))
  found = _shares(rows, size)
  if found is None:
    raise errors.UserError(
      f"mesh {_said([*mesh.shape.values()])} gives a process rows of a batch"
      f" that do not lie together, with {len(rows)} processes of"
      f" {mesh.size // len(rows)} devices; let 'mesh.tensor' divide the devices"
      " of a process, or be a multiple of them"
    )
  return found[jax.process_index()]


def _shares(
  rows: Mapping[int, set[tuple[int, int]]], size: int
) -> dict[int, tuple[int, int]] | None:
  """(index, count) by process, given (start, stop) of the rows it holds.

  None if one holds what is no part of `size` rows cut into equal ones.
  """
  whole = {}
  for process, found in rows.items():
    start, stop = min(found)[0], max(found)[1]
    each = stop - start
    if sum(b - a for a, b in found) != each or start % each or size % each:
      return None
    whole[process] = (start // each, size // each)
  if len({count for _, count in whole.values()}) > 1:
    return None
  return whole


def put(mesh: Mesh, tree: Any, *, split: bool = False) -> Any:
  """Host arrays on the devices: split as a batch, or a copy on each.

  With several processes each gives the rows that `share` says, and all give
  the same of what is copied; nothing is sent between them.
  """
  where = batch(mesh) if split else replicated(mesh)
  if jax.process_count() == 1:
    return jax.device_put(tree, where)
  make = jax.make_array_from_process_local_data if split else _copied
  # A guard takes only `jax.device_put` for a transfer that is meant.
  with jax.transfer_guard_host_to_device("allow"):
    return jax.tree.map(functools.partial(make, where), tree)


def _copied(where: NamedSharding, x: Any) -> jax.Array:
  """`jax.device_put` would compare the copies of all processes, each time."""
  if jax.dtypes.issubdtype(getattr(x, "dtype", None), jax.dtypes.prng_key):
    words = _copied(where, jax.random.key_data(x))
    return jax.random.wrap_key_data(words, impl=jax.random.key_impl(x))
  held = np.asarray(x, jax.dtypes.canonicalize_dtype(np.result_type(x)))
  return jax.make_array_from_callback(held.shape, where, lambda at: held[at])


def stops(mesh: Mesh, flag: bool) -> jax.Array:
  """1 on each device of this process if `flag`, else 0: int32 (devices,).

  The largest of all, which a compiled step finds, tells every process at the
  same step whether any of them was told to stop.
  """
  where = each_device(mesh)
  mine = np.full((1,), flag, np.int32)
  with jax.transfer_guard_host_to_device("allow"):
    return jax.make_array_from_callback((mesh.size,), where, lambda _: mine)


def check_batch(key: str, size: int, mesh: Mesh, parts: int = 1) -> None:
  """Raises if `mesh` cannot share out a batch of that size.

  Args:
    key: of the config, for the message.
    size: of the batch.
    mesh: of the devices.
    parts: that it is computed in, one after another.

  Raises:
    errors.UserError: naming the config key and the nearest sizes.
  """
  devices = math.prod(mesh.shape[axis] for axis in shards.BATCH)
  least = devices * parts
  if size % least:
    below = size - size % least
    above = below + least
    in_parts = f" times {parts} parts (accumulate)" if parts > 1 else ""
    raise errors.UserError(
      f"{key} {size} is not a multiple of the {devices} devices that share a"
      f" batch ({_said([*mesh.shape.values()])}){in_parts}; choose"
      f" {f'{below} or {above}' if below else above}"
    )


def table(tree: Any, shardings: Any) -> str:
  """What lies where: path, shape, dtype, spec and bytes on each device.

  The last line has the sum, and how much of it is copies on every device.

  Args:
    tree: arrays or abstract arrays; random keys count as their words.
    shardings: what `intended` gave for it.
  """
  rows = [("path", "shape", "dtype", "spec", "bytes per device")]
  total = copies = 0
  leaves = zip(jax.tree.leaves(tree), jax.tree.leaves(shardings), strict=True)
  for name, (leaf, where) in zip(path_names(tree), leaves, strict=True):
    shape = tuple(leaf.shape)
    size = math.prod(where.shard_shape(shape)) * _bytes_of(leaf)
    total += size
    copies += size * where.is_fully_replicated
    spec = ", ".join(map(_said_axis, where.spec))
    rows.append((name, str(list(shape)), str(leaf.dtype), spec, f"{size:,}"))
  rows.append(("sum", "", "", "", f"{total:,}"))
  share = 100 * copies / total if total else 0
  last = f"of these {copies:,} ({share:.3g} %) are a copy of every device's"
  return "\n".join([*tables.align(rows, "<<<<>"), last])


def _said_axis(axis: Any) -> str:
  return "+".join(axis) if isinstance(axis, tuple) else str(axis or "-")


def _bytes_of(leaf: Any) -> int:
  """Of an element."""
  if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    words = jax.eval_shape(
      jax.random.key_data, jax.ShapeDtypeStruct((), leaf.dtype)
    )
    return words.size * words.dtype.itemsize
  return leaf.dtype.itemsize


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
