"""A program's peak beside what XLA allocates, and why they differ."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
from jax.extend import core

from jbin.cost import _count, _format, _hlo, _peak

_COPIES = frozenset({"copy", "copy-start", "transpose"})


class Compiled(_hlo.Compiled, Protocol):
  """The same, with what it allocates."""

  def memory_analysis(self) -> Any: ...


@dataclasses.dataclass(frozen=True)
class MemoryCheck:
  """Both peaks; XLA's are per device.

  Attributes:
    program: what the program keeps as it is written, see `peak`.
    temp: bytes that XLA allocates beside arguments and results.
    argument: bytes of the arguments.
    output: bytes of the results.
    alias: bytes of the results that lie in donated arguments.
    fusions: fused computations that XLA runs.
    copies: copies and transpositions that XLA runs, fused ones not.
    copied_bytes: bytes of their results.
    rematerialized: instructions that XLA runs once more to save memory.
    devices: among how many the work is divided.
  """

  program: _peak.Peak
  temp: int
  argument: int
  output: int
  alias: int
  fusions: int
  copies: int
  copied_bytes: int
  rematerialized: int
  devices: int = 1

  @property
  def compiled(self) -> int:
    """What XLA allocates beside the arguments: temp + output - alias."""
    return self.temp + self.output - self.alias

  @property
  def notes(self) -> list[str]:
    """Why XLA's figure is another, as far as the figures say."""
    return _notes(self)

  def to_json(self) -> dict[str, Any]:
    """All figures and notes; the program's peak stands beside, as "peak"."""
    table = {
      field.name: getattr(self, field.name)
      for field in dataclasses.fields(self)
      if field.name != "program"
    }
    return {"compiled": self.compiled, **table, "notes": self.notes}


def memory_check(
  fn: Callable[..., Any],
  *args: Any,
  weights: int | Sequence[int] = (),
  states: int | Sequence[int] = (),
  donate: int | Sequence[int] = (),
  training: bool = False,
) -> MemoryCheck:
  """The peak of `fn(*args)` beside `memory_analysis()` of its compilation.

  It compiles for the first device, or for those of a `shard_map`, and runs and
  allocates nothing. Arguments are those of `peak`; `donate` is donated to the
  compiled program too.

  Raises:
    errors.UserError: as `count`.
  """
  program, walker, _ = _count.walked(
    fn, args, training=training, weights=weights, states=states, donate=donate
  )
  given = _count.positions("donate", donate)
  flat = [i for i, arg in enumerate(program.arguments) if arg in given]
  run = jax.jit(core.jaxpr_as_fun(program.jaxpr), donate_argnums=flat)
  avals = [
    jax.ShapeDtypeStruct(aval.shape, aval.dtype)
    for aval in program.jaxpr.in_avals
  ]
  found = _peak.of(program, walker, given)
  compiled = run.lower(*avals).compile()
  devices = _hlo.partitions(compiled.as_text() or "")
  return compare_memory(found, compiled, devices)


def compare_memory(
  peak: _peak.Peak, compiled: Compiled, devices: int = 1
) -> MemoryCheck:
  """A peak beside what XLA says of the same program, compiled before.

  Args:
    peak: of the program.
    compiled: the same program, compiled.
    devices: among how many XLA divided it.
  """
  sizes = compiled.memory_analysis()
  runs = _hlo.Program(compiled.as_text() or "").runs()
  lines = [run.instruction for run in runs if not run.fused]
  copies = [line.bytes for line in lines if line.opcode in _COPIES]
  return MemoryCheck(
    program=peak,
    temp=sizes.temp_size_in_bytes,
    argument=sizes.argument_size_in_bytes,
    output=sizes.output_size_in_bytes,
    alias=sizes.alias_size_in_bytes,
    fusions=sum(line.opcode == "fusion" for line in lines),
    copies=len(copies),
    copied_bytes=sum(copies),
    rematerialized=sum(".remat" in line.name for line in lines),
    devices=devices,
  )


def _size(n: int) -> str:
  text = _format.amount(n)
  return f"{text}B" if text[-1].isalpha() else f"{text} bytes"


def _notes(check: MemoryCheck) -> list[str]:
  """Each possible reason with the figure that bounds it."""
  size, program = _size, check.program
  notes = []
  if check.fusions and program.fused_bytes < program.bytes:
    notes.append(
      f"fusion: XLA runs {check.fusions} fused loops; with all element-wise"
      " work inside what reads it the program would keep"
      f" {size(program.fused_bytes)} instead of {size(program.bytes)}"
    )
  if check.devices == 1 and program.recomputed_bytes < program.fused_bytes:
    notes.append(
      "recomputation: a fused loop may work out a value of the forward phase"
      " again instead of reading it; with each element-wise value worked out"
      f" where it is read it would keep {size(program.recomputed_bytes)}"
    )
  if check.alias:
    notes.append(
      f"donation: {size(check.alias)} of the results lie in donated arguments;"
      " the program's own figure has each result beside its argument"
    )
  if check.rematerialized:
    notes.append(
      f"rematerialization: XLA computes {check.rematerialized} values again"
      " that the program keeps"
    )
  if program.fused_bytes > program.bytes:
    notes.append(
      "fusion can cost: what a fused loop reads is kept until the loop runs;"
      f" fused throughout, the program would keep {size(program.fused_bytes)}"
    )
  if check.copies:
    notes.append(
      f"layout: XLA runs {check.copies} copies and transpositions, of"
      f" {size(check.copied_bytes)} in all; in the program these are views"
    )
  if check.devices > 1:
    notes.append(
      f"devices: XLA's figures are of one of {check.devices} devices, the"
      " program's of all of them together"
    )
    return notes
  if abs(check.compiled - program.bytes) * 100 <= check.compiled:
    notes.append("XLA allocates as much as the program keeps as it is written")
    return notes
  # Results that lie in their arguments need no room of their own.
  least = min(program.recomputed_bytes, program.fused_bytes) - check.alias
  most = max(program.bytes, program.fused_bytes)
  if least <= check.compiled <= most:
    notes.append(
      f"XLA allocates {size(check.compiled)}: between {size(least)}, with all"
      f" of these savings, and {size(most)}, with none"
    )
    return notes
  near, more = (most, "more") if check.compiled > most else (least, "less")
  notes.append(
    f"the rest: XLA allocates {size(abs(check.compiled - near))} {more} than"
    " all of these. What of it is another order, buffers that share a place,"
    " padding, or the workspace of kernels, they do not tell"
  )
  return notes
