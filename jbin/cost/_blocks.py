"""Along which axes a value varies, and in how many equal blocks.

The scale of a group-wise quantized kernel is constant on runs of its
contracted axis: `Blocks` says how many runs there are, so that a product can
be priced as that many partial products.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

Shape = tuple[int, ...]
# (axis, number of equal neighbouring runs on which the value is constant), of
# each axis with two or more.
Blocks = tuple[tuple[int, int], ...]
# Where each axis goes: to several where it is split, or not known to.
Moves = Mapping[int, Sequence[int]]
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


def moved(blocks: Blocks, moves: Moves, before: Shape, after: Shape) -> Blocks:
  """The blocks after the axes moved: axis d goes to the axes `moves[d]`."""
  sources: dict[int, list[int]] = {}
  for axis in range(len(before)):
    for target in moves.get(axis, ()):
      sources.setdefault(target, []).append(axis)
  known = dict(blocks)
  found = []
  for target, axes in sorted(sources.items()):
    varying = [axis for axis in axes if axis in known]
    if not varying or after[target] < 2:
      continue
    n = after[target]
    alone = all(len(moves[axis]) == 1 for axis in axes)
    if alone and _size(before, axes) == n:
      n = _runs([(known.get(axis, 1), before[axis]) for axis in axes], n)
    found.append((target, n))
  return tuple(found)


def shifted(blocks: Blocks, by: int) -> Blocks:
  """The blocks with `by` leading axes added (or removed, if negative)."""
  return tuple((axis + by, n) for axis, n in blocks if axis + by >= 0)


def _size(shape: Shape, axes: Sequence[int]) -> int:
  n = 1
  for axis in axes:
    n *= shape[axis]
  return n


def _runs(axes: Sequence[tuple[int, int]], most: int) -> int:
  """Runs along axes that become one; only what varies first stays in runs."""
  n, ended = 1, False
  for runs, size in axes:
    if size == 1:
      continue
    if ended and runs > 1:
      return most
    n *= runs
    ended = ended or runs < size
  return n
