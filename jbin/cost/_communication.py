"""What devices send each other in a compiled program, by mesh axis.

XLA partitions a program and puts the transfers in itself, so they stand in no
jaxpr: `communication` reads them off the compiled text. What a `shard_map` asks
for is in `Report.collectives` already.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jbin.cost import _hlo

KINDS = (
  "all-reduce",
  "all-gather",
  "reduce-scatter",
  "all-to-all",
  "ragged-all-to-all",
  "collective-permute",
  "collective-broadcast",
)
_UNKNOWN = "unknown"
_LONGEST = 160  # letters of a place: XLA joins the names of what it combines


@dataclasses.dataclass(frozen=True)
class Transfer:
  """One collective of a compiled program.

  Attributes:
    kind: as HLO names it, without "-start".
    axes: mesh axes along which a group's devices lie, in the mesh's order; None
      if the groups are along none.
    devices: how many are in a group.
    bytes: of the array in one run, as one device sees it: what an all-reduce
      or a reduce-scatter takes in, what an all-gather gives out.
    sent: what each device sends in one run if the group is a ring.
    times: how often it runs; a loop of which XLA does not know the trips counts
      as one.
    known: whether the trips of all loops around it are known.
    branch: whether it stands in a branch, which may not be taken.
    where: the name stack of the JAX equation.
  """

  kind: str
  axes: tuple[str, ...] | None
  devices: int
  bytes: int
  sent: int
  times: int = 1
  known: bool = True
  branch: bool = False
  where: str = ""

  @property
  def label(self) -> str:
    """The axes as one word."""
    if self.axes is None:
      return _UNKNOWN
    return "+".join(self.axes) or "none"


@dataclasses.dataclass(frozen=True)
class Communication:
  """The transfers of a program, per device."""

  mesh: dict[str, int]
  transfers: list[Transfer]

  def by_axis(self) -> dict[str, dict[str, int]]:
    """{axes: {"transfers", "bytes", "sent"}} of one run of the program."""
    found: dict[str, dict[str, int]] = {}
    for row in self.transfers:
      sums = found.setdefault(
        row.label, {"transfers": 0, "bytes": 0, "sent": 0}
      )
      sums["transfers"] += row.times
      sums["bytes"] += row.bytes * row.times
      sums["sent"] += row.sent * row.times
    return found

  @property
  def notes(self) -> list[str]:
    """What the text does not tell."""
    loops = sum(not row.known for row in self.transfers)
    lost = sum(row.axes is None for row in self.transfers)
    branches = sum(row.branch for row in self.transfers)
    found = [
      (loops, "in loops whose trips XLA does not know; one trip counts"),
      (lost, "between devices that are no group along axes of the mesh"),
      (branches, "in branches that may not be taken; all count"),
    ]
    return [f"{n} of the transfers stand {said}" for n, said in found if n]

  def to_json(self) -> dict[str, Any]:
    """The sums by axis, each transfer, and what is not known."""
    rows = [
      {
        **dataclasses.asdict(row),
        "axes": None if row.axes is None else list(row.axes),
      }
      for row in self.transfers
    ]
    return {
      "mesh": self.mesh,
      "by_axis": self.by_axis(),
      "transfers": rows,
      "notes": self.notes,
    }


def communication(
  compiled: _hlo.Compiled, mesh: jax.sharding.Mesh
) -> Communication:
  """The transfers between devices that a compiled program makes.

  ```python
  compiled = jax.jit(step, out_shardings=...).lower(*args).compile()
  print(jbin.cost.communication(compiled, mesh).by_axis())
  ```

  Bytes are per device and for one run of the program, loops included. An
  asynchronous pair (`all-reduce-start`, `all-reduce-done`) is one transfer.
  What one device sends depends on the algorithm of the backend; `sent` is that
  of a ring: (n - 1)/n of the array for a gather or a scatter, twice that for an
  all-reduce. It leaves out how long a transfer takes and what hides it.

  Args:
    compiled: a compiled function, for the devices of `mesh`.
    mesh: names the axes; its devices are numbered in its order, as `jax.jit`
      numbers those of a sharding on it.
  """
  program = _hlo.Program(compiled.as_text() or "")
  axes = _Axes(mesh, max(program.partitions * program.replicas, 1))
  found = [_transfer(run, axes) for run in program.runs()]
  return Communication(dict(mesh.shape), [row for row in found if row])


class _Axes:
  """Which axes of a mesh a group of its devices spans."""

  def __init__(self, mesh: jax.sharding.Mesh, devices: int):
    self.devices = devices
    self.names = tuple(str(name) for name in mesh.axis_names)
    self.shape = tuple(mesh.shape.values())
    self.fits = int(np.prod(self.shape)) == devices
    ids = np.arange(int(np.prod(self.shape))).reshape(self.shape)
    self.known: dict[frozenset[frozenset[int]], tuple[str, ...]] = {}
    for n in range(len(self.shape) + 1):
      for chosen in itertools.combinations(range(len(self.shape)), n):
        if all(self.shape[d] > 1 for d in chosen):
          rows = np.moveaxis(ids, chosen, range(-n, 0) if n else ())
          size = int(np.prod([self.shape[d] for d in chosen]))
          key = _key(rows.reshape(-1, size).tolist())
          self.known[key] = tuple(self.names[d] for d in chosen)

  def of(self, groups: _hlo.Groups) -> tuple[str, ...] | None:
    """The axes, None if these groups are along none."""
    return self.known.get(_key(groups)) if self.fits else None

  def between(self, pairs: Sequence[tuple[int, int]]) -> tuple[str, ...] | None:
    """The axes along which sources and targets differ."""
    if not self.fits:
      return None
    differ = set()
    for pair in pairs:
      a, b = (np.unravel_index(i, self.shape) for i in pair)
      differ.update(d for d in range(len(self.shape)) if a[d] != b[d])
    return tuple(self.names[d] for d in sorted(differ))


def _key(groups: _hlo.Groups) -> frozenset[frozenset[int]]:
  return frozenset(frozenset(group) for group in groups)


def _transfer(run: _hlo.Run, axes: _Axes) -> Transfer | None:
  """The transfer that an instruction is; None: it is another."""
  line = run.instruction
  kind = line.opcode.removesuffix("-start")
  if kind not in KINDS:
    return None
  taken = run.operand_bytes
  if kind == "collective-permute":
    pairs = _hlo.pairs(line.rest)
    spans, n, whole = axes.between(pairs), 2, taken
    sent = taken if any(a != b for a, b in pairs) else 0
  else:
    groups = _hlo.groups(line.rest, axes.devices)
    spans = None if groups is None else axes.of(groups)
    n = max(map(len, groups)) if groups else axes.devices
    whole = taken * n if kind == "all-gather" else taken
    share = whole * (n - 1) // n
    sent = 2 * share if kind == "all-reduce" else share
    if kind == "collective-broadcast":
      sent = taken
  return Transfer(
    kind=kind,
    axes=spans,
    devices=n,
    bytes=whole,
    sent=sent,
    times=run.times,
    known=run.known,
    branch=run.branch,
    where=line.op_name[:_LONGEST],
  )
