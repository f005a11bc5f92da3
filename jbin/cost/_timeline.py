"""A program as one line of steps over buffers, for finding its peak."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

from jax.extend import core

from jbin.cost import _arrays, _primitives, _shards
from jbin.cost._live import (
  Flags,
  Liveness,
  branches,
  inner_jaxpr,
  open_jaxpr,
)
from jbin.cost._values import Shape, dtype_bits
from jbin.cost._walk import Place, Seen

# The result is the operand in another shape, or a few elements over again: a
# program that keeps nothing twice keeps nothing here.
VIEWS = frozenset(
  (
    "broadcast_in_dim",
    "broadcast_to",
    "layout_constraint",
    "name",
    "optimization_barrier",
    "pbroadcast",
    "pvary",
    "reshape",
    "reshard",
    "sharding_constraint",
    "squeeze",
    "transpose",
  )
)
# What can be worked out inside the loop of the operation that reads it.
FUSABLE = _primitives.ELEMENTWISE | frozenset(
  (
    "concatenate",
    "convert_element_type",
    "dynamic_slice",
    "iota",
    "pad",
    "reduce_precision",
    "rev",
    "slice",
  )
)
_READERS = FUSABLE | _primitives.REDUCTIONS
# Their results can lie where the operand does that they write to.
_WRITES = frozenset(("dynamic_update_slice", "scatter"))
# What stands in place of a primitive for what a loop's body is given.
CARRY, SLICE = "the carry", "a slice"


@dataclasses.dataclass(frozen=True)
class Buffer:
  """One array that the program keeps while something reads it."""

  shape: Shape
  dtype: str
  bytes: int
  bits: int
  # Of one element: by the tag, or by the dtype.
  primitive: str = ""
  # That makes it; "": an input.
  where: str = ""
  phase: str = "forward"
  data: bool = True
  # Whether it depends on the inputs that are data.
  elements: int = 0
  # Of all devices together; the shape is that of one.
  devices: int = 1
  # How many have a part of it, in a `shard_map`.
  state: bool = False
  # Whether it is a state, or what a state becomes where some of it is written.

  @property
  def tagged_bytes(self) -> int:
    """Bytes at the width of the tag."""
    return -(-self.elements * self.bits // 8)

  def times(self, devices: int) -> Buffer:
    """The buffers of so many devices, each with its part."""
    return dataclasses.replace(
      self,
      bytes=self.bytes * devices,
      elements=self.elements * devices,
      devices=devices,
    )


@dataclasses.dataclass(frozen=True)
class Step:
  """One equation: what it reads, makes and needs inside."""

  primitive: str
  where: str
  phase: str
  reads: tuple[int, ...]
  makes: tuple[int, ...]
  inner: tuple[Timeline, ...] = ()
  # Bodies of a loop or branch; they run one at a time.
  moved: tuple[int, ...] = ()
  # The first carries of a loop: the body works in them if nothing else does.
  stacked: tuple[int, ...] = ()
  # Results that are there from the first trip on.


@dataclasses.dataclass
class Timeline:
  """Buffers by number, and the steps in the order of the program."""

  buffers: list[Buffer] = dataclasses.field(default_factory=list)
  steps: list[Step] = dataclasses.field(default_factory=list)
  outside: set[int] = dataclasses.field(default_factory=set)
  # Buffers that belong to the caller: arguments, constants.
  given: list[int] = dataclasses.field(default_factory=list)
  # Buffers that are there at the start, and are the program's own.
  results: list[int] = dataclasses.field(default_factory=list)

  def add(self, buffer: Buffer, *, outside: bool = False) -> int:
    """Takes a buffer; returns its number."""
    self.buffers.append(buffer)
    if outside:
      self.outside.add(len(self.buffers) - 1)
    return len(self.buffers) - 1

  def fused(self, across: bool) -> dict[int, frozenset[int]]:
    """What is never stored if element-wise work is fused.

    A buffer counts as fused if an element-wise step makes it and only
    element-wise steps and reductions read it. For each: the stored buffers that
    it is worked out from. The slices of a scan are read where they lie.

    Args:
      across: whether steps of other phases may read it too: what forward
        computes is then computed again for backward.
    """
    readers: dict[int, list[Step]] = {}
    for step in self.steps:
      for b in step.reads:
        readers.setdefault(b, []).append(step)
    kept = {*self.results, *self.outside, *self.given}
    found: dict[int, frozenset[int]] = {
      b: frozenset() for b in self.given if self.buffers[b].primitive == SLICE
    }
    for step in self.steps:
      if step.primitive not in FUSABLE or len(step.makes) != 1:
        continue
      b = step.makes[0]
      near = all(
        r.primitive in _READERS and (across or r.phase == step.phase)
        for r in readers.get(b, ())
      )
      if near and b not in kept:
        parts = (found.get(r, frozenset((r,))) for r in step.reads)
        found[b] = frozenset().union(*parts)
    return found


class Builder:
  """Writes the timeline of a jaxpr; calls are written out in their place."""

  def __init__(self, seen: dict[tuple[int, ...], Seen], live: Liveness):
    self.seen, self.live = seen, live

  def body(
    self,
    jaxpr: Any,
    inputs: Sequence[Buffer],
    owned: Sequence[bool],
    used: Flags,
    place: Place,
  ) -> Timeline:
    """The timeline of a program, or of the body of a loop or branch.

    Args:
      jaxpr: the program.
      inputs: its inputs.
      owned: which of them are its own, to be given up after their last use.
      used: which results matter.
      place: where it stands.
    """
    line = Timeline()
    numbers = []
    for buffer, own in zip(inputs, owned, strict=True):
      numbers.append(line.add(buffer, outside=not own))
      if own:
        line.given.append(numbers[-1])
    made = self._write(line, jaxpr, numbers, used, place)
    taken: set[int] = set()
    body = open_jaxpr(jaxpr)
    for var, b, use in zip(body.outvars, made, used, strict=True):
      if not use:
        continue
      whole = buffer_of(var)
      if b is not None and place.mesh:
        whole = whole.times(line.buffers[b].devices)
      again = b is None or b in line.outside or b in taken
      if b is None or again or line.buffers[b].bytes != whole.bytes:
        b = self._copy(line, whole, () if b is None else (b,), place)
      taken.add(b)
      line.results.append(b)
    return line

  def _copy(
    self, line: Timeline, whole: Buffer, source: tuple[int, ...], place: Place
  ) -> int:
    """Adds the step that makes a result of what is no buffer of its own."""
    phase = line.steps[-1].phase if line.steps else "forward"
    new = line.add(dataclasses.replace(whole, primitive="copy", phase=phase))
    line.steps.append(Step("copy", place.stack, phase, source, (new,)))
    return new

  def _write(
    self,
    line: Timeline,
    jaxpr: Any,
    inputs: Sequence[int | None],
    used: Flags,
    place: Place,
  ) -> list[int | None]:
    """Adds the steps of a jaxpr; returns the buffers of its results."""
    body = open_jaxpr(jaxpr)
    env: dict[core.Var, int | None] = {}
    env.update(zip(body.invars, inputs, strict=True))
    for var in body.constvars:
      env[var] = line.add(buffer_of(var), outside=True)

    def read(var: core.Var | core.Literal) -> int | None:
      return None if isinstance(var, core.Literal) else env.get(var)

    for eqn, outs in zip(body.eqns, self.live.uses(body, used)[1], strict=True):
      if outs is None:
        continue
      reads = [read(v) for v in eqn.invars]
      if eqn.primitive.name == "shard_map":
        self._divide(line, eqn, reads, place)
        inside = _shards.inside(place, eqn)
        made = self._write(line, eqn.params["jaxpr"], reads, outs, inside)
      elif (inner := inner_jaxpr(eqn)) is not None:
        made = self._write(line, inner, reads, outs, place.inside(eqn))
      elif eqn.primitive.name in VIEWS and len(reads) == len(eqn.outvars):
        made = reads
        self._tag(line, eqn, made[0], place)
      else:
        made = self._step(line, eqn, reads, outs, place)
      env.update(zip(eqn.outvars, made, strict=True))
    return [read(var) for var in body.outvars]

  def _divide(
    self,
    line: Timeline,
    eqn: core.JaxprEqn,
    reads: Sequence[int | None],
    place: Place,
  ) -> None:
    """Each device of a `shard_map` has a part of an operand."""
    for b, parts in zip(reads, _shards.parts(eqn), strict=True):
      if b is not None:
        before = line.buffers[b].devices if place.mesh else 1
        line.buffers[b] = dataclasses.replace(
          line.buffers[b], devices=before * parts
        )

  def _tag(
    self, line: Timeline, eqn: core.JaxprEqn, b: int | None, place: Place
  ) -> None:
    """A tag says how wide the elements are that a buffer holds already."""
    bits = self.seen[(*place.keys, id(eqn))].values[0].bits
    if eqn.primitive.name == "name" and bits is not None and b is not None:
      line.buffers[b] = dataclasses.replace(line.buffers[b], bits=bits)

  def _step(
    self,
    line: Timeline,
    eqn: core.JaxprEqn,
    reads: list[int | None],
    used: Flags,
    place: Place,
  ) -> list[int | None]:
    """Adds one equation that is no call."""
    name, where = eqn.primitive.name, place.name(eqn)
    seen = self.seen[(*place.keys, id(eqn))]
    made: list[int | None] = []
    onto = reads[0] if name in _WRITES else None
    state = onto is not None and line.buffers[onto].state
    for var, value, use in zip(eqn.outvars, seen.values, used, strict=True):
      plain = buffer_of(var).times(place.sharers(value.devices))
      new = dataclasses.replace(
        plain,
        bits=plain.bits if value.bits is None else value.bits,
        primitive=name,
        where=where,
        phase=seen.phase,
        data=value.data,
        state=state,
      )
      made.append(line.add(new) if use else None)
    n_consts, n_carry = 0, 0
    if name == "scan":
      n_consts, n_carry = eqn.params["num_consts"], eqn.params["num_carry"]
    elif name == "while":
      n_consts = eqn.params["cond_nconsts"] + eqn.params["body_nconsts"]
      n_carry = len(eqn.outvars)
    start = reads[n_consts : n_consts + n_carry]
    step = Step(
      primitive=name,
      where=where,
      phase=seen.phase,
      reads=tuple(b for b in reads if b is not None),
      makes=tuple(b for b in made if b is not None),
      inner=tuple(self._inner(line, eqn, reads, used, place)),
      moved=tuple(b for b in dict.fromkeys(start) if b is not None),
      stacked=tuple(b for b in made[n_carry:] if b is not None)
      if name == "scan"
      else (),
    )
    line.steps.append(step)
    return made

  def _inner(
    self,
    line: Timeline,
    eqn: core.JaxprEqn,
    reads: Sequence[int | None],
    used: Flags,
    place: Place,
  ) -> Iterator[Timeline]:
    """The bodies of a loop or branch."""
    params, inside = eqn.params, place.inside(eqn)

    def inputs(
      jaxpr: Any, sources: Sequence[int | None], rows: int | None = None
    ) -> list[Buffer]:
      """Inputs of a body, as wide as what they are given."""
      found = []
      for i, var in enumerate(open_jaxpr(jaxpr).invars):
        b = sources[i]
        like = buffer_of(var) if b is None else line.buffers[b]
        made = SLICE if rows is not None and i >= rows else CARRY
        new = buffer_of(var, dataclasses.replace(like, primitive=made))
        found.append(new.times(like.devices if place.mesh else 1))
      return found

    if eqn.primitive.name == "scan":
      n = params["num_consts"]
      own = [i >= n for i in range(len(reads))]
      rows = n + params["num_carry"]
      needed = self.live.scan(eqn, used)[1]
      body = params["jaxpr"]
      given = inputs(body, reads, rows)
      yield self.body(body, given, own, needed, inside)
    elif eqn.primitive.name == "while":
      test, n = params["cond_nconsts"], params["body_nconsts"]
      carry = reads[test + n :]
      for body, consts, needed in (
        (
          params["body_jaxpr"],
          reads[test : test + n],
          self.live.loop(eqn, used)[1],
        ),
        (params["cond_jaxpr"], reads[:test], (True,)),
      ):
        own = [i >= len(consts) for i in range(len(consts) + len(carry))]
        given = inputs(body, [*consts, *carry])
        yield self.body(body, given, own, needed, inside)
    elif eqn.primitive.name == "cond":
      for branch in branches(eqn):
        own = [False] * (len(reads) - 1)
        given = inputs(branch, reads[1:])
        yield self.body(branch, given, own, used, inside)


def buffer_of(
  var: core.Var | core.Literal, like: Buffer | None = None
) -> Buffer:
  """The buffer of a variable, with the element width of another."""
  shape, dtype = _arrays.shape_of(var), _arrays.dtype_of(var)
  if dtype is None:  # a token
    return Buffer(shape, "", 0, 0)
  bits = dtype_bits(dtype)
  whole = math.prod(shape) * dtype.itemsize
  if like is None:
    return Buffer(shape, str(dtype), whole, bits, elements=math.prod(shape))
  return dataclasses.replace(
    like,
    shape=shape,
    dtype=str(dtype),
    bytes=whole,
    bits=like.bits,
    elements=math.prod(shape),
  )
