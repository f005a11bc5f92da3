"""The patterns that leave out what does not fit, to be pasted."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence

_MOST = 8  # patterns: with more it is another model's checkpoint


def fresh(
  before: Sequence[str],
  paths: Collection[str],
  all_paths: Collection[str],
  names: Collection[str],
  all_names: Collection[str],
) -> str:
  """`fresh=(...)` of those before and these; "" if it would name too much.

  Args:
    before: patterns that are given already.
    paths: of ours, that start as the model has them.
    all_paths: of the model.
    names: of theirs, that are left in the checkpoint.
    all_names: of the checkpoint.
  """
  found = [*before, *_patterns(paths, all_paths, "/")]
  found += _patterns(names, all_names, ".")
  whole = {*paths} >= {*all_paths} or len(found) - len(before) > _MOST
  if whole or len(found) == len(before):
    return ""
  found = [*dict.fromkeys(found)]
  written = ", ".join(map(_literal, found))
  return f"fresh=({written}{'' if found[1:] else ','})"


def _literal(pattern: str) -> str:
  if '"' in pattern or pattern.endswith("\\") or not pattern.isprintable():
    return repr(pattern)
  return f'r"{pattern}"' if "\\" in pattern else f'"{pattern}"'


def _patterns(
  items: Collection[str], among: Collection[str], sep: str
) -> list[str]:
  """Few that match these and no others among all."""
  left, found, items = [*items], [], {*items}
  while left:
    pattern = next(
      pattern
      for pattern in _wider(left[0], sep)
      if all(re.fullmatch(pattern, x) is None or x in items for x in among)
    )
    found.append(pattern)
    left = [item for item in left if not re.fullmatch(pattern, item)]
  return found


def _wider(item: str, sep: str) -> Iterator[str]:
  """Patterns of an item, the widest first."""
  parts = item.split(sep)
  dot = re.escape(sep)
  for n in range(1, len(parts)):
    yield dot.join(map(re.escape, parts[:n])) + dot + ".*"
    numbered = [re.sub(r"\d+", r"\\d+", re.escape(part)) for part in parts[:n]]
    yield dot.join(numbered) + dot + ".*"
  yield re.sub(r"\d+", r"\\d+", re.escape(item))
  yield re.escape(item)
