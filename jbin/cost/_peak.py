"""The most bytes that a program keeps at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from jbin.cost._live import Liveness
from jbin.cost._place import Place
from jbin.cost._record import PHASES
from jbin.cost._timeline import Buffer, Builder, Step, Timeline, buffer_of
from jbin.cost._trace import Program
from jbin.cost._walk import Walker

_TOP = 20  # arrays that are listed


@dataclasses.dataclass(frozen=True)
class Held:
  """An array, or the inside of a loop, that is kept at the peak."""

  what: str
  # The primitive that makes it.
  where: str
  shape: tuple[int, ...]
  dtype: str
  phase: str
  bytes: int
  tagged_bytes: int


@dataclasses.dataclass(frozen=True)
class Activations:
  """The most at once of what depends on the data, if each value is stored."""

  bytes: int
  tagged_bytes: int
  # With each value packed to the bits of its tag or dtype.


@dataclasses.dataclass(frozen=True)
class Peak:
  """What a program keeps, in bytes; `peak` makes it.

  Attributes:
    bytes: the most at once of what the program makes, results included and
      arguments not, if each value is stored.
    tagged_bytes: the same with each value packed to the bits of its tag, or of
      its dtype (a truth value to one).
    fused_bytes: as `bytes`, if element-wise work is done inside what reads it
      in the same phase.
    recomputed_bytes: as `fused_bytes`, if later phases too work out again what
      element-wise work of earlier ones gave.
    total_bytes: the most at once with the arguments; those that are donated end
      with their last use.
    arguments_bytes: of all arguments.
    results_bytes: of all results.
    residual_bytes: what the forward phase leaves to be read by later phases.
    residual_tagged_bytes: the same, packed.
    by_phase: the most at once while each phase runs, as in `bytes`.
    by_dtype: bytes at the peak by dtype.
    primitive: the equation at the peak.
    where: its name stack.
    phase: its phase.
    held: the largest arrays at the peak.
  """

  bytes: int
  tagged_bytes: int
  fused_bytes: int
  recomputed_bytes: int
  total_bytes: int
  arguments_bytes: int
  results_bytes: int
  residual_bytes: int
  residual_tagged_bytes: int
  by_phase: dict[str, int]
  by_dtype: dict[str, int]
  primitive: str
  where: str
  phase: str
  held: list[Held]

  def to_json(self) -> dict[str, Any]:
    """The fields as JSON values."""
    table = dataclasses.asdict(self)
    for row in table["held"]:
      row["shape"] = list(row["shape"])
    return table


def activations(program: Program, walker: Walker) -> Activations:
  """The most at once of what depends on the data, arguments not counted.

  Nor is a state where some of it was written: it lies where the state does.
  """
  kept = lambda b: b.data and not b.state
  line, _ = _timeline_of(program, walker)
  plain = _Sweep(line, lambda b: b.bytes if kept(b) else 0)
  tagged = _Sweep(line, lambda b: b.tagged_bytes if kept(b) else 0)
  return Activations(plain.peak, tagged.peak)


def of(program: Program, walker: Walker, donate: Sequence[int] = ()) -> Peak:
  """The peak of a program that was walked."""
  line, inputs = _timeline_of(program, walker)
  given = [argument in donate for argument in program.arguments]
  plain = _Sweep(line, lambda b: b.bytes)
  tagged = _Sweep(line, lambda b: b.tagged_bytes)
  fused = _Sweep(line, lambda b: b.bytes, across=False)
  again = _Sweep(line, lambda b: b.bytes, across=True)
  whole = _Sweep(line, lambda b: b.bytes, arguments=given)
  top = line.steps[plain.at] if line.steps else Step("", "", "forward", (), ())
  held, dtypes = _held(line, plain)
  return Peak(
    bytes=plain.peak,
    tagged_bytes=tagged.peak,
    fused_bytes=fused.peak,
    recomputed_bytes=again.peak,
    total_bytes=whole.peak,
    arguments_bytes=sum(b.bytes for b in inputs),
    results_bytes=sum(line.buffers[b].bytes for b in line.results),
    residual_bytes=plain.residuals(),
    residual_tagged_bytes=tagged.residuals(),
    by_phase=plain.by_phase(),
    by_dtype=dtypes,
    primitive=top.primitive,
    where=top.where,
    phase=top.phase,
    held=held,
  )


def _timeline_of(
  program: Program, walker: Walker
) -> tuple[Timeline, list[Buffer]]:
  """The steps of a program that was walked, and its arguments."""
  body = program.jaxpr.jaxpr
  inputs = [
    dataclasses.replace(
      buffer_of(var),
      data=value.data,
      where=str(i),
      state=not value.data and value.origin is None,
    )
    for i, (var, value) in enumerate(
      zip(body.invars, program.values, strict=True)
    )
  ]
  used = (True,) * len(body.outvars)
  line = Builder(walker.seen, Liveness()).body(
    program.jaxpr, inputs, (False,) * len(inputs), used, Place()
  )
  return line, inputs


class _Sweep:
  """One pass over a timeline: what is kept while each step runs.

  Args:
    line: the timeline.
    size: bytes of a buffer.
    across: None: each value is stored; else as `Timeline.fused` takes it.
    arguments: for each argument whether it is donated; None: they do not count.

  Attributes:
    peak: the most at once.
    at: the first step at which it is reached.
    tops: what is kept during each step.
  """

  def __init__(
    self,
    line: Timeline,
    size: Callable[[Buffer], int],
    *,
    across: bool | None = None,
    arguments: Sequence[bool] | None = None,
  ):
    self.line, self.size, self.across = line, size, across
    self.gone = {} if across is None else line.fused(across)
    # Arguments stand first; those that are donated end with their last use.
    self.counted = set(range(len(arguments))) if arguments else set()
    for_ever = {i for i, given in enumerate(arguments or ()) if not given}
    self.last = self._last_uses({*line.results, *for_ever})
    start = [*line.given, *self.counted]
    live = sum(map(self._bytes, start))
    live -= sum(self._bytes(b) for b in start if b not in self.last)
    self.tops: list[int] = []
    self.inner: list[list[_Sweep]] = []
    self.peak, self.at = live, 0
    ends: dict[int, list[int]] = {}
    for b, i in self.last.items():
      ends.setdefault(i, []).append(b)
    for i, step in enumerate(line.steps):
      new = sum(map(self._bytes, step.makes))
      self.inner.append([self._within(inner) for inner in step.inner])
      top = live + max(new, self.inside(i))
      self.tops.append(top)
      if top > self.peak:
        self.peak, self.at = top, i
      live += new - sum(map(self._bytes, ends.get(i, ())))
      live -= sum(self._bytes(b) for b in step.makes if b not in self.last)

  def _within(self, inner: Timeline) -> _Sweep:
    return _Sweep(inner, self.size, across=self.across)

  def inside(self, i: int) -> int:
    """What the largest body of a step adds, and the results beside it."""
    step = self.line.steps[i]
    if not self.inner[i]:
      return 0
    moved = sum(self._bytes(b) for b in step.moved if self.last.get(b) == i)
    stacked = sum(map(self._bytes, step.stacked))
    return max(0, stacked + max(s.peak for s in self.inner[i]) - moved)

  def _bytes(self, b: int) -> int:
    if b in self.gone or (b in self.line.outside and b not in self.counted):
      return 0
    return self.size(self.line.buffers[b])

  def _last_uses(self, for_ever: set[int]) -> dict[int, int]:
    """The last step that reads each buffer; one more than all: it stays."""
    last: dict[int, int] = {}
    for i, step in enumerate(self.line.steps):
      if self.gone.keys() & step.makes:
        continue  # is worked out where it is read
      for b in step.reads:
        for source in self.gone.get(b, (b,)):
          last[source] = i
    return last | dict.fromkeys(for_ever, len(self.line.steps))

  def by_phase(self) -> dict[str, int]:
    """The most at once in each phase."""
    found: dict[str, int] = {}
    for step, top in zip(self.line.steps, self.tops, strict=True):
      found[step.phase] = max(top, found.get(step.phase, 0))
    return {phase: found[phase] for phase in PHASES if phase in found}

  def residuals(self) -> int:
    """What forward steps make and steps of other phases read."""
    kept = {
      b
      for step in self.line.steps
      if step.phase != "forward"
      for b in step.reads
      if self.line.buffers[b].phase == "forward"
    }
    return sum(map(self._bytes, kept))

  def live(self, i: int) -> list[int]:
    """The buffers that are there while a step runs."""
    made = dict.fromkeys(self.line.given, -1)
    for j, step in enumerate(self.line.steps[: i + 1]):
      made |= dict.fromkeys(step.makes, j)
    return [
      b for b, j in made.items() if j == i or (j < i <= self.last.get(b, -1))
    ]


def _held(line: Timeline, sweep: _Sweep) -> tuple[list[Held], dict[str, int]]:
  """The largest arrays at the peak, and all bytes there by dtype."""
  if not line.steps:
    return [], {}
  i = sweep.at
  step, inside = line.steps[i], sweep.inner[i]
  live = sweep.live(i)
  loop: list[Held] = []
  dtypes: dict[str, int] = {}
  made = sum(line.buffers[b].bytes for b in step.makes)
  if inside and sweep.inside(i) > made:
    deepest = max(inside, key=lambda each: each.peak)
    loop, dtypes = _held(deepest.line, deepest)
    moved = {b for b in step.moved if sweep.last.get(b) == i}
    live = [b for b in live if b not in moved]
    live = [b for b in live if b not in step.makes or b in step.stacked]
  rows = [line.buffers[b] for b in live]
  for buffer in rows:
    dtypes[buffer.dtype] = dtypes.get(buffer.dtype, 0) + buffer.bytes
  held = loop + [
    Held(
      what=b.primitive,
      where=b.where,
      shape=b.shape,
      dtype=b.dtype,
      phase=b.phase,
      bytes=b.bytes,
      tagged_bytes=b.tagged_bytes,
    )
    for b in rows
  ]
  held.sort(key=lambda row: -row.bytes)
  return held[:_TOP], dtypes
