"""A family of checkpoints: the table between our paths and their names."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

from flax import nnx

from jbin import errors, registry
from jbin.pretrained import _axes, _resize, _settings

REGISTRY = registry.Registry("family of weights")
"""Functions that make a `Family`, by name."""

Shapes = Mapping[str, _axes.Shape]
Part = tuple[int, int]


class Row(NamedTuple):
  """Where a checkpoint keeps what one of our parameters holds.

  `{s}` in both names is a number, the same in both. A number that only theirs
  has (`{n}`, `{2n}`, `{2n+1}`) counts the members of a stack: our parameter
  has a leading axis over them.
  """

  ours: str
  theirs: str
  axes: str
  # As in `"ihd->(hd)i"`, without the stack's axis.
  part: Part | None = None
  # (i, k): ours is the i-th of k equal parts of theirs, along its first axis.


class Piece(NamedTuple):
  """One tensor of theirs, or a part of one, and its place among ours."""

  path: str
  member: int | None  # of the stack, if it is one
  shape: _axes.Shape  # ours, of one member
  name: str
  axes: str
  part: Part | None

  @property
  def whole(self) -> _axes.Shape:
    """The shape of the whole tensor of theirs."""
    shape = _axes.their_shape(self.axes, self.shape)
    return shape if self.part is None else (shape[0] * self.part[1], *shape[1:])


@dataclasses.dataclass(frozen=True)
class Family:
  """What there is to know of the checkpoints of a family of models."""

  rows: tuple[Row, ...]
  # The first one that fits takes a parameter.
  types: tuple[str, ...]
  # What config.json calls such models.
  config: Callable[[Any, Shapes], dict[str, Any]]
  # config.json of a model; errors.UserError if there is no such model there.
  arguments: Callable[
    [Mapping[str, Any], Collection[str]], tuple[str, dict[str, Any]]
  ]
  # A name in `models.REGISTRY` and its arguments, from config.json and the
  # tensors' names; errors.UserError if our models do not do what it says.
  unseen: Callable[[Any, Shapes], dict[str, Any]] = lambda model, shapes: {}
  # Arguments that a checkpoint's shapes do not show, of a model whose
  # parameters of these shapes come from one; they must be as config.json says.
  spellings: tuple[tuple[str, str], ...] = ()
  # (regular expression, what to put instead): other spellings of the names.
  ignored: tuple[str, ...] = ()
  # Regular expressions of tensors that hold nothing that a model needs.
  copies: tuple[tuple[str, str], ...] = ()
  # (a tensor that may be there, the equal one that is read).
  refused: tuple[tuple[str, str], ...] = ()
  # (regular expression, why a checkpoint with such a tensor is not read).
  heads: Mapping[str, str] = dataclasses.field(default_factory=dict)
  # What config.json calls an architecture -> regular expression of the tensors
  # of its head, which does something that ours does not.
  absent: tuple[tuple[str, str], ...] = ()
  # (regular expression of our paths, why there is no place for them).
  positions: Mapping[str, _resize.Resize] = dataclasses.field(
    default_factory=dict
  )
  # Regular expression of our paths -> how a table of another length fits.

  def canonical(self, name: str) -> str:
    """A tensor's name as `rows` has it."""
    for pattern, instead in self.spellings:
      name = re.sub(pattern, instead, name)
    return name

  def pieces(self, path: str, shape: _axes.Shape) -> tuple[Piece, ...]:
    """What one of our parameters is made of; nothing, if no row fits it."""
    for row in self.rows:
      if match := _pattern(row.ours).fullmatch(path):
        return tuple(_pieces(row, match.groupdict(), path, shape))
    return ()


_NUMBER = re.compile(r"\{(\d*)([a-z])(?:\+(\d+))?\}")


def _pattern(ours: str) -> re.Pattern[str]:
  """Matches our paths; a group for each number in them."""
  return re.compile(re.sub(r"\{([a-z])\}", r"(?P<\1>\\d+)", ours))


def _pieces(
  row: Row, found: Mapping[str, str], path: str, shape: _axes.Shape
) -> Iterator[Piece]:
  """A row's pieces, with numbers in their names."""
  own = {name for _, name, _ in _NUMBER.findall(row.theirs)} - {*found}
  if len(shape) != len(own) + row.axes.index("->") or len(own) > 1:
    return
  for member in range(shape[0]) if own else (None,):
    name = _put(row.theirs, {**found, **dict.fromkeys(own, member)})
    yield Piece(path, member, shape[len(own) :], name, row.axes, row.part)


def _put(theirs: str, numbers: Mapping[str, Any]) -> str:
  """A name with numbers for `{s}`, `{2n}` and `{2n+1}`."""

  def number(match: re.Match[str]) -> str:
    times, name, more = match.groups()
    return str(int(times or 1) * int(numbers[name]) + int(more or 0))

  return _NUMBER.sub(number, theirs)


def lengths(shapes: Shapes, path: str, axis: int) -> list[int]:
  """Of an axis of all parameters of a path like "stages/{s}/norm/scale"."""
  row = _pattern(path)
  found = [(m, shape) for p, shape in shapes.items() if (m := row.fullmatch(p))]
  found.sort(key=lambda pair: [int(number) for number in pair[0].groups()])
  return [shape[axis] for _, shape in found]


def axis(shapes: Shapes, name: str, path: str, i: int) -> dict[str, Any]:
  """{name: length of an axis}; of several parameters with `{s}` in the path."""
  each = lengths(shapes, path, i)
  if not each:
    return {}
  return {name: tuple(each) if "{" in path else each[0]}


def kind(config: Mapping[str, Any]) -> str | None:
  """What config.json calls its model: transformers' name, or timm's."""
  return config.get("model_type", config.get("architecture"))


def shapes(model: nnx.Module) -> dict[str, _axes.Shape]:
  """{path: shape} of a model's parameters; it may be abstract."""
  found = nnx.to_flat_state(nnx.state(model, nnx.Param))
  return {"/".join(map(str, path)): tuple(leaf.shape) for path, leaf in found}


def family_of(model: nnx.Module, ours: Shapes) -> tuple[str, Family]:
  """(name, family) of the one whose table has the most of a model's paths.

  What quantizers learn has no part in it.

  Raises:
    errors.UserError: if none has more than half of them.
  """
  made = {name: REGISTRY.get(name)() for name in REGISTRY}
  learned = [path for path, _ in _settings.quantizers(model)]
  paths = [
    path
    for path in ours
    if not any(path.startswith(f"{start}/") for start in learned)
  ]

  def known(name: str) -> int:
    rows = [_pattern(row.ours) for row in made[name].rows]
    return sum(any(row.fullmatch(path) for row in rows) for path in paths)

  def fitting(name: str) -> int:
    return sum(bool(made[name].pieces(path, ours[path])) for path in paths)

  # Two may have the same paths, and other axes.
  name = max(made, key=lambda name: (known(name), fitting(name)))
  if 2 * known(name) <= len(paths):
    near = f"; {name} has {known(name)} of {len(paths)}" if known(name) else ""
    raise errors.UserError(
      "no family of weights has parameters like this model's"
      f" ({', '.join(paths[:3]) or 'it has none'}{near}); there are"
      f" {', '.join(made)}"
    )
  return name, made[name]
