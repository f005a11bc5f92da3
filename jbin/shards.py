"""Where values lie: split over a mesh, or inside a `jax.shard_map`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, ParamSpec, TypeVar, get_args

import jax
from jax import lax
from jax.sharding import AbstractMesh, AxisType, Mesh, PartitionSpec

from jbin import errors, residuals

P = ParamSpec("P")
T = TypeVar("T")
Gather = Literal["packed", "floats"]
"""What devices send each other of 1-bit kernels that `fsdp` splits."""

BATCH = ("data", "fsdp")
"""The axes of a mesh that examples are split along."""
SPLIT = "fsdp"
"""The axis of a mesh along which parameters are split to save memory."""
TOKENS = "sequence"
"""The axis of a mesh that the tokens of texts are split along."""
LOGICAL = {
  "embed": SPLIT,
  "vocab": "tensor",
  "heads": "tensor",
  "mlp": "tensor",
  "inner": "tensor",
}
"""What a model calls an axis of a parameter (`nn.name_axes`) -> the mesh's."""
SMALL = 2**10
"""Elements; smaller arrays are copied to every device rather than split."""

# Part of the keys of JAX's caches of traces.
_gather = jax.make_user_context("floats")


def within(
  mesh: Mesh, function: Callable[P, T], gather: Gather = "floats"
) -> Callable[P, T]:
  """The function, traced so that `along_batch` and layers know the mesh.

  Args:
    mesh: of the devices; on a single one nothing is to be known.
    function: to be compiled.
    gather: what devices send each other of the 1-bit kernels of layers that
      `fsdp` splits: "packed", their bits, eight to a byte; or "floats", what
      XLA makes of them. Values and gradients are the same up to the rounding
      of sums, which may have another order.

  Raises:
    errors.UserError: if `gather` is unknown.
  """
  if gather not in get_args(Gather):
    raise errors.UnknownName("gather", gather, get_args(Gather))
  if mesh.size == 1:
    return function

  def run(*args: P.args, **kwargs: P.kwargs) -> T:
    with (
      jax.sharding.use_abstract_mesh(mesh.abstract_mesh),
      _gather(gather),
    ):
      return function(*args, **kwargs)

  return run


def spec(
  shape: Sequence[int],
  mesh: Mesh | AbstractMesh,
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
  return _by_rule(shape, mesh, names)


def _by_rule(
  shape: Sequence[int],
  mesh: Mesh | AbstractMesh,
  names: Sequence[str | None] | None,
) -> PartitionSpec:
  if names is not None:
    split = [None if name is None else LOGICAL[name] for name in names]
    return _trimmed(
      axis if axis is not None and _splits(mesh, axis, n) else None
      for axis, n in zip(split, shape, strict=True)
    )
  fits = [i for i, n in enumerate(shape) if _splits(mesh, SPLIT, n)]
  if not fits:
    return PartitionSpec()
  best = max(fits, key=lambda i: (shape[i], i))
  return PartitionSpec(*([None] * best), SPLIT)


def _splits(mesh: Mesh | AbstractMesh, axis: str, n: int) -> bool:
  return mesh.shape[axis] > 1 and n % mesh.shape[axis] == 0


def _trimmed(axes: Iterable[str | None]) -> PartitionSpec:
  """Without what says nothing at the end."""
  found = list(axes)
  while found and found[-1] is None:
    found.pop()
  return PartitionSpec(*found)


@dataclasses.dataclass(frozen=True)
class Packing:
  """How an array of two values, split over a mesh, is made whole: by its bits.

  Attributes:
    axis: along which eight of them make a byte.
    size: of that axis.
    split: how the array lies, and its bits.
    whole: how it lies once gathered.
  """

  axis: int
  size: int
  split: PartitionSpec
  whole: PartitionSpec

  def pack(self, mask: jax.Array) -> jax.Array:
    """Booleans, split, to bits, split."""
    return self.laid(residuals.pack_along(mask, self.axis))

  def laid(self, bits: jax.Array) -> jax.Array:
    """The bits, split."""
    return lax.with_sharding_constraint(bits, self.split)

  def open(self, bits: jax.Array) -> jax.Array:
    """Split bits to booleans, gathered."""
    # Before and after: XLA would gather what comes of them.
    whole = self.spread(self.laid(bits))
    return self.spread(residuals.unpack_along(whole, self.axis, self.size))

  def spread(self, x: jax.Array) -> jax.Array:
    """The whole array, or what broadcasts with it, as it lies once gathered."""
    along = zip(self.whole, x.shape, strict=False)
    places = [None if n == 1 else name for name, n in along]
    return lax.with_sharding_constraint(x, PartitionSpec(*places))


def places(
  shape: Sequence[int], names: Sequence[str | None] | None
) -> list[str | None] | None:
  """The mesh's axis that splits each axis of a kernel to be gathered as bits.

  None outside of `within(..., gather="packed")`, and for what the rule of
  `spec` does not split over `fsdp`.

  Args:
    shape: of the kernel, without axes of stacks.
    names: of its axes, as for `spec`.
  """
  mesh = jax.sharding.get_abstract_mesh()
  kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
  asked = _gather.value == "packed" and kinds.get(SPLIT) == AxisType.Auto
  if not asked or math.prod(shape) < SMALL:
    return None
  found: list[Any] = [*_by_rule(shape, mesh, names)]
  found += [None] * (len(shape) - len(found))
  return found if SPLIT in found else None


def packing(
  shape: Sequence[int], split: Sequence[str | None]
) -> Packing | None:
  """How bits of an array are gathered; None where no axis can be packed.

  Of an axis that is split each device has to have whole bytes.

  Args:
    shape: of the array.
    split: the mesh's axis that splits each of its axes, or None.
  """
  mesh = jax.sharding.get_abstract_mesh()
  found = []
  for axis, (n, name) in enumerate(zip(shape, split, strict=True)):
    parts = 1 if name is None else mesh.shape[name]
    if parts == 1 or n % (parts * 8) == 0:
      lost = -(-n // 8) * 8 / n
      found.append((lost, parts > 1, -axis))
  if not found:
    return None
  axis = -min(found)[-1]
  whole = [None if name == SPLIT else name for name in split]
  return Packing(
    axis, shape[axis], PartitionSpec(*split), PartitionSpec(*whole)
  )


def along_batch(tree: T) -> T:
  """Arrays that lie as the batch does: their first axis split, no feature.

  Where parameters are split along the features as well, XLA else may split
  activations so, and compute each example on all devices. Values are the same.
  On a mesh with the axis `sequence` the second of three axes or more, the
  tokens, is split over it. Nothing is done outside of `within`, and for arrays
  that cannot be split.

  Args:
    tree: a pytree of arrays; those of less than two axes are left as they are.
  """
  mesh = jax.sharding.get_abstract_mesh()
  kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
  auto = {name for name, kind in kinds.items() if kind == AxisType.Auto}
  axes = tuple(axis for axis in BATCH if axis in auto)
  parts = math.prod(mesh.shape[axis] for axis in axes)
  tokens = mesh.shape[TOKENS] if TOKENS in auto else 1
  if parts * tokens == 1:
    return tree

  def lay(x: Any) -> Any:
    if not isinstance(x, jax.Array) or x.ndim < 2 or x.shape[0] % parts:
      return x
    splits = tokens > 1 and x.ndim > 2 and x.shape[1] % tokens == 0
    second = (TOKENS,) if splits else ()
    return lax.with_sharding_constraint(x, PartitionSpec(axes or None, *second))

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
