"""Why an operand has the bits it has: its way through the program, as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jbin import errors
from jbin.cost._record import CONTRACTED, FOLDED, GROUPED, Operand, Record
from jbin.cost._values import Step

_Row = tuple[str, str, str, str]  # primitive, shape and dtype, bits, remark
_MOST = 6  # names of operations in a line that stands for several


def explain(records: Sequence[Record], path: str) -> str:
  """The text of `Report.explain`.

  Raises:
    errors.UnknownName: if no product is at that path.
  """
  found = [r for r in records if not path or _is_within(r.name, path)]
  if not found:
    known = {"/".join(p) for r in records for p in _prefixes(r.name)}
    raise errors.UnknownName("layer", path, known)
  return "\n\n".join("\n".join(_product(record)) for record in found)


def _is_within(name: str, path: str) -> bool:
  return f"{name}/".startswith(f"{path.rstrip('/')}/")


def _prefixes(name: str) -> Iterator[list[str]]:
  parts = name.split("/")
  for n in range(1, len(parts) + 1):
    yield parts[:n]


def _product(record: Record) -> Iterator[str]:
  pair = f"{record.lhs_bits} x {record.rhs_bits} bits"
  said = [record.primitive, pair, f"{record.macs:,} MACs", record.phase]
  if record.repeats > 1:
    said.append(f"{record.repeats:,} trips")
  if record.devices > 1:
    said.append(f"shared by {record.devices} devices")
  yield f"{record.name}: {', '.join(said)}"
  names = ("activation", "weight")
  if record.kind == "matmul":
    names = ("left factor", "right factor")
  for name, operand in zip(names, (record.lhs, record.rhs), strict=True):
    yield f"  {name}, {_width(operand)}"
    rows = list(_rows(_way(operand.step)))
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
      cells = [f"{cell:<{n}}" for cell, n in zip(row, wide, strict=True)]
      yield f"    {'  '.join(cells)}".rstrip()
  yield from (f"  {line}" for line in _flags(record))


def _width(operand: Operand) -> str:
  bits = _plural(operand.bits)
  if operand.tagged:
    return f"{bits} by its tag, read as {operand.dtype}"
  way = _way(operand.step)
  lost = [step.before for step in way if step.bits is None and _tagged(step)]
  said = f"{bits} by its dtype {operand.dtype}: it has no tag"
  if lost and lost[-1] is not None:
    said += f" (one of {lost[-1].bits} ended on the way)"
  return said


def _plural(bits: int) -> str:
  return f"{bits} bit{'s' if bits > 1 else ''}"


def _tagged(step: Step) -> bool:
  """Whether the operand that a step is made of had a tag."""
  return step.before is not None and step.before.bits is not None


def _way(step: Step | None) -> list[Step]:
  """The steps from the first to the last."""
  found: list[Step] = []
  while step is not None:
    found.append(step)
    step = step.before
  return found[::-1]


def _rows(way: Sequence[Step]) -> Iterator[_Row]:
  """A line for each step; neighbours that are plain share one."""
  plain: list[Step] = []
  for step in way:
    if step.primitive.startswith("name[jbin.op="):  # a mark, no operation
      continue
    untouched = step.bits is None and not step.note and not _tagged(step)
    if untouched and step.before is not None:
      plain.append(step)
      continue
    yield from _together(plain)
    plain = []
    yield _row(step)
  yield from _together(plain)


def _together(steps: Sequence[Step]) -> Iterator[_Row]:
  if len(steps) < 2:
    yield from map(_row, steps)
    return
  names = list(dict.fromkeys(step.primitive for step in steps))
  listed = ", ".join(names[:_MOST]) + (", …" if len(names) > _MOST else "")
  said = f"… {len(steps)} operations without a tag: {listed}"
  yield said, _array(steps[-1]), "", _at(steps[-1])


def _row(step: Step) -> _Row:
  bits = "" if step.bits is None else _plural(step.bits)
  if not step.primitive:
    return step.where, _array(step), bits, ""
  remark = _at(step)
  if step.note:
    remark = f"<- {step.note}" + (f"  ({remark})" if remark else "")
  if step.before is None:
    return f"the result of {step.primitive}", _array(step), bits, remark
  return step.primitive, _array(step), bits, remark


def _array(step: Step) -> str:
  return f"{'x'.join(map(str, step.shape)) or 'scalar'} {step.dtype}"


def _tagged_anew(operand: Operand) -> bool:
  """Whether its tag is one that followed another, which had ended."""
  marks = [step.bits is not None for step in _way(operand.step)]
  if not marks or not marks[-1]:
    return False
  last = len(marks) - marks[::-1].index(False) if False in marks else 0
  return any(marks[:last])


def _at(step: Step) -> str:
  return f"at {step.where}" if step.where else ""


def _flags(record: Record) -> Iterator[str]:
  wide = " x ".join(map(str, record.strict_bits))
  for flag in record.flags:
    if flag == CONTRACTED:
      yield (
        f"{flag}: a scale varies along the contraction, so no product of"
        f" integers gives this sum; ace counts {record.lhs_bits} x"
        f" {record.rhs_bits}, ace_strict {wide}."
      )
    elif flag == GROUPED:
      runs = max(record.lhs.runs, record.rhs.runs)
      strict = (
        f": ace_strict adds {record.partials:,} multiply-accumulates of"
        f" {record.float_bits} x {record.float_bits} bits"
      )
      yield (
        f"{flag}: a scale is constant on {runs} runs of the contraction;"
        " integers give the sum of each run, and floats put them together"
        f"{strict if record.partials else ''}."
      )
    elif flag == FOLDED:
      yield (
        f"{flag}: a scale varies along the contraction, but the other operand"
        " is float and takes it; the bits stand."
      )
  if not record.flags and any(map(_tagged_anew, (record.lhs, record.rhs))):
    yield (
      "A tag was set anew behind a sum (an offset, or several bases): which"
      " scales vary along the contraction is not known there, and integers"
      " alone do not give the sum of this product."
    )
  elif not record.flags:
    both = record.lhs.tagged and record.rhs.tagged
    yield "No scale varies along the contraction" + (
      ": integers of these bits give the sum." if both else "."
    )
