"""What keeps a checkpoint from fitting a model, in one message."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jbin.pretrained import _axes, _cure, _source, _table

_SHOWN = 8  # lines of a kind
_READ = ("F32", "F16", "BF16")
_FRESH = (
  "fresh=... has regular expressions of what starts as the model has it, or is"
  " left in the checkpoint: our paths, its names, arguments"
)

Line = tuple[str, str]  # a name, and what is to say of it


@dataclasses.dataclass(frozen=True)
class Case:
  """A model and a checkpoint, and what is known of them.

  Attributes:
    shapes: of all parameters, by path.
    wanted: what those that are not fresh are made of; nothing, where the
      family's table has no row.
    found: the checkpoint's tensors, by the table's names.
    unexpected: those that nothing needs.
    head: those of a head that does something else than ours, and whose it is.
    arguments: {name: (ours, theirs)} of those that differ.
    fresh: patterns of what is fresh.
    idle: those that match nothing.
    positions: as a family has them.
    resize: whether such tables are made to fit.
  """

  shapes: _table.Shapes
  wanted: Mapping[str, Sequence[_table.Piece]]
  found: Mapping[str, _source.Tensor]
  unexpected: Sequence[str]
  head: tuple[str, Sequence[str]]
  arguments: Mapping[str, tuple[Any, Any]]
  fresh: Sequence[str]
  idle: Sequence[str]
  positions: Mapping[str, Any]
  resize: bool

  def fits(self, piece: _table.Piece, theirs: _axes.Shape) -> bool:
    """Whether a table of positions of this shape can become ours."""
    return any(
      re.fullmatch(path, piece.path) and how.fits(theirs, piece.shape)
      for path, how in self.positions.items()
    )


def faults(case: Case) -> str:
  """All of them, line by line, and what cures them; empty if there is none."""
  missing: dict[Line, str] = {}  # -> the path
  others: dict[Line, str] = {}
  longer: dict[Line, str] = {}
  for piece in [p for pieces in case.wanted.values() for p in pieces]:
    tensor, whole = case.found.get(piece.name), _shape(piece.whole)
    if tensor is None:
      name = _in_file(piece.name, case.found)
      missing[name, f"{whole} for {piece.path}"] = piece.path
    elif tensor.shape != piece.whole or tensor.dtype not in _READ:
      theirs = f"{tensor.dtype} {_shape(tensor.shape)}"
      line = (tensor.name, f"{theirs}, {piece.path} needs {whole}")
      if tensor.dtype not in _READ or not case.fits(piece, tensor.shape):
        others[line] = piece.path
      elif not case.resize:
        longer[line] = piece.path
  unknown = [path for path, pieces in case.wanted.items() if not pieces]
  unexpected = [case.found[name].name for name in case.unexpected]
  kind, head = case.head
  sections: dict[str, Sequence[Line]] = {
    "missing": [*missing],
    "unexpected": [_named(case, name) for name in case.unexpected],
    f"of {kind}, which is another head than ours": [
      _named(case, name) for name in head
    ],
    f"of another shape, or type than {', '.join(_READ)}": [*others, *longer],
    "in no such checkpoint, or of other axes": [
      (path, _shape(case.shapes[path])) for path in unknown
    ],
    "arguments": [
      (name, f"ours {ours}, theirs {theirs}")
      for name, (ours, theirs) in case.arguments.items()
    ],
    "fresh, but neither ours nor theirs": [(name, "") for name in case.idle],
  }
  lines: list[str] = []
  for title, items in sections.items():
    if items:
      near = unexpected if title == "missing" else ()
      shown = list(_together([*items], near))
      lines += [f"  {title} ({len(items)}):", *shown[:_SHOWN]]
      if len(shown) > _SHOWN:
        lines.append(f"    and {len(shown) - _SHOWN} more lines like these")
  if not lines:
    return ""
  if longer and not others:
    lines.append("  resize=True makes tables of positions fit")
  if case.arguments:
    lines.append("  make the model with their arguments")
  misread = [
    path
    for path, pieces in case.wanted.items()
    for p in pieces
    if p.name in head
  ]
  paths = dict.fromkeys(
    [*missing.values(), *others.values(), *longer.values(), *unknown, *misread]
  )
  unread = {p.name for path in misread for p in case.wanted[path]}
  return "\n".join([*lines, f"  {_cured(case, paths, unread)}{_FRESH}"])


def _short(case: Case) -> bool:
  """Whether a stack of ours has more members than theirs."""
  for pieces in case.wanted.values():
    if len({piece.name in case.found for piece in pieces}) > 1:
      return True
  return False


def _cured(case: Case, paths: Mapping[str, Any], unread: set[str]) -> str:
  """What to paste, and what comes between it and the explanation."""
  if _short(case):  # to leave the others out would hardly be meant
    return ""
  names = [*case.unexpected, *(n for n in case.head[1] if n not in unread)]
  pasted = _cure.fresh(
    [pattern for pattern in case.fresh if pattern not in case.idle],
    paths,
    case.shapes,
    [case.found[name].name for name in names],
    [tensor.name for tensor in case.found.values()],
  )
  return f"to go on without these: {pasted}\n  " if pasted else ""


def _named(case: Case, name: str) -> Line:
  tensor = case.found[name]
  return tensor.name, _shape(tensor.shape)


def _in_file(name: str, found: Mapping[str, _source.Tensor]) -> str:
  """A name of the table as the checkpoint would spell it.

  As a tensor is spelled whose name begins as this one does, if none is spelled
  as in the table.
  """
  first = name.split(".")[0] + "."
  if any(tensor.name.startswith(first) for tensor in found.values()):
    return name
  for other, tensor in found.items():
    theirs = tensor.name
    ours, own = other.split("."), theirs.split(".")
    while ours and own and ours[-1] == own[-1]:
      ours.pop()
      own.pop()
    start = ".".join(ours)
    if other != theirs and ours and name.startswith(f"{start}."):
      return ".".join([*own, name.removeprefix(f"{start}.")])
  return name


def _together(items: Sequence[Line], near: Sequence[str]) -> Iterator[str]:
  """One line for all that differ in the numbers of their names only."""
  groups: dict[Line, list[str]] = {}
  for name, detail in items:
    groups.setdefault((re.sub(r"\d+", "#", name), detail), []).append(name)
  for (pattern, detail), names in groups.items():
    columns = zip(*(re.findall(r"\d+", name) for name in names), strict=True)
    spans = iter([_span(sorted({*map(int, column)})) for column in columns])
    text = re.sub("#", lambda _, spans=spans: next(spans), pattern)
    close = difflib.get_close_matches(names[0], near, n=1, cutoff=0.75)
    hint = f"; is it {close[0]}?" if close else ""
    yield f"    {text} {detail}".rstrip() + hint


def _span(numbers: Sequence[int]) -> str:
  """`3`, `{0-11}` or `{0,2,4}`."""
  first, last = numbers[0], numbers[-1]
  if first == last:
    return str(first)
  if len(numbers) == last - first + 1:
    return f"{{{first}-{last}}}"
  return f"{{{','.join(map(str, numbers))}}}"


def _shape(shape: Sequence[int]) -> str:
  return "x".join(map(str, shape)) or "a scalar"
