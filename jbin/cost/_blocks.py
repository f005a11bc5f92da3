"""Along which axes a value varies, and in how many equal blocks.

The scale of a group-wise quantized kernel is constant on runs of its
contracted axis: `Blocks` says how many runs there are, so that a product can
be priced as that many partial products.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

Shape = tuple[int, ...]
# (axis, number of equal neighbouring runs on which the value is constant), of
# each axis with two or more.
Blocks = tuple[tuple[int, int], ...]
NONE: Blocks = ()


def full(shape: Shape, axes: Iterable[int] | None = None) -> Blocks:
  """Every element along the axes (all, if not given) may be another."""
  chosen = range(len(shape)) if axes is None else sorted(set(axes))
  return tuple((axis, shape[axis]) for axis in chosen if shape[axis] > 1)


def axes_of(blocks: Blocks) -> frozenset[int]:
  """The axes along which the value varies."""
  return frozenset(axis for axis, _ in blocks)


def merge(parts: Iterable[Blocks], shape: Shape) -> Blocks:
  """What a function of several values of that shape varies along."""
  found: dict[int, int] = {}
  for part in parts:
    for axis, n in part:
      old = found.get(axis, 1)
      if n % old and old % n:  # their borders do not meet
        n = shape[axis]
      found[axis] = max(n, old)
  return tuple(sorted(found.items()))


def moved(
  blocks: Blocks, moves: Mapping[int, int], before: Shape, after: Shape
) -> Blocks:
  """The blocks after axis d went to axis `moves[d]`, or away.

  Of an axis whose length changed (a slice, a pad) no runs are known.
  """
  found = []
  for axis, n in blocks:
    target = moves.get(axis)
    if target is None or after[target] < 2:
      continue
    size = after[target]
    found.append((target, n if size == before[axis] else size))
  return tuple(sorted(found))


def reshaped(blocks: Blocks, before: Shape, after: Shape) -> Blocks:
  """The blocks after a row-major reshape."""
  if 0 in before:
    return NONE
  known, found = dict(blocks), []
  for ins, outs in _groups(before, after):
    runs = _flat([(known.get(axis, 1), before[axis]) for axis in ins])
    for i, axis in enumerate(outs):  # the outermost first
      size = after[axis]
      if runs == 1:
        break
      if size % runs == 0:
        found.append((axis, runs))
        break
      found.append((axis, size))
      # Where a run ends inside a row, each element of the rest is another.
      rest = math.prod(after[a] for a in outs[i + 1 :])
      runs = rest if runs % size else runs // size
  return tuple(found)


def divided(runs: int, parts: int, size: int) -> int:
  """Runs in each of equal parts of an axis; `size` elements a part."""
  if runs % parts == 0:
    return runs // parts
  return 1 if parts % runs == 0 else size


def shifted(blocks: Blocks, by: int) -> Blocks:
  """The blocks with `by` leading axes added (or removed, if negative)."""
  return tuple((axis + by, n) for axis, n in blocks if axis + by >= 0)


def _groups(
  before: Shape, after: Shape
) -> Iterator[tuple[list[int], list[int]]]:
  """The smallest groups of neighbouring axes that have equal size."""
  ins = [axis for axis, n in enumerate(before) if n > 1]
  outs = [axis for axis, n in enumerate(after) if n > 1]
  while ins:
    group, target = [ins.pop(0)], [outs.pop(0)]
    while True:
      left = math.prod(before[axis] for axis in group)
      right = math.prod(after[axis] for axis in target)
      if left == right:
        break
      if left < right:
        group.append(ins.pop(0))
      else:
        target.append(outs.pop(0))
    yield group, target


def _flat(axes: Sequence[tuple[int, int]]) -> int:
  """Runs along axes that become one; only what varies first stays in runs."""
  found, ended = 1, False
  for runs, size in axes:
    if ended and runs > 1:
      return math.prod(size for _, size in axes)
    found *= runs
    ended = ended or runs < size
  return found
