"""What keeps a checkpoint from fitting a model, in one message."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jbin.pretrained import _source, _table

_SHOWN = 8  # lines of a kind
_READ = ("F32", "F16", "BF16")

Line = tuple[str, str]  # a name, and what is to say of it


def faults(
  pieces: Sequence[_table.Piece],
  found: Mapping[str, _source.Tensor],
  unexpected: Sequence[str],
  unknown: Mapping[str, Sequence[int]],
  arguments: Mapping[str, tuple[Any, Any]],
  idle: Sequence[str],
) -> str:
  """All of them, line by line; empty if there is none.

  Args:
    pieces: what the model needs.
    found: the checkpoint's tensors by name.
    unexpected: those that nothing needs.
    unknown: shapes by path of what the family's table has no row for.
    arguments: {name: (ours, theirs)} of those that differ.
    idle: patterns of what is fresh that match nothing.
  """
  missing: list[Line] = []
  others: list[Line] = []
  for piece in pieces:
    tensor, whole = found.get(piece.name), _shape(piece.whole)
    if tensor is None:
      missing.append((piece.name, f"{whole} for {piece.path}"))
    elif tensor.shape != piece.whole or tensor.dtype not in _READ:
      theirs = f"{tensor.dtype} {_shape(tensor.shape)}"
      others.append((piece.name, f"{theirs}, {piece.path} needs {whole}"))
  sections = {
    "missing": dict.fromkeys(missing),
    "unexpected": [(name, _shape(found[name].shape)) for name in unexpected],
    f"of another shape, or type than {', '.join(_READ)}": dict.fromkeys(others),
    "in no such checkpoint, or of other axes": [
      (path, _shape(shape)) for path, shape in unknown.items()
    ],
    "arguments": [
      (name, f"ours {ours}, theirs {theirs}")
      for name, (ours, theirs) in arguments.items()
    ],
    "fresh, but neither ours nor theirs": [(name, "") for name in idle],
  }
  lines: list[str] = []
  for title, items in sections.items():
    if items:
      near = unexpected if title == "missing" else ()
      shown = list(_together([*items], near))
      lines += [f"  {title} ({len(items)}):", *shown[:_SHOWN]]
      if len(shown) > _SHOWN:
        lines.append(f"    and {len(shown) - _SHOWN} more lines like these")
  return "\n".join(lines)


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
