"""What config.json files of several families have in common."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from jbin import errors

Config = Mapping[str, Any]


def only(config: Config, **ours: Any) -> None:
  """Refuses settings other than these, which are all that our models have.

  Raises:
    errors.UserError: if one is there, and another.
  """
  for name, value in ours.items():
    if config.get(name, value) != value:
      raise errors.UserError(
        f"config.json says {name} = {config[name]!r}; our model of this family"
        f" has only {value!r}"
      )


def side(config: Config, name: str, default: int) -> int:
  """The side of a square, which may be written as two sides.

  Raises:
    errors.UserError: if they differ.
  """
  value = config.get(name, default)
  sides = {value} if isinstance(value, int) else {*value}
  if len(sides) != 1:
    raise errors.UserError(
      f"config.json says {name} = {value}; our models take squares"
    )
  return sides.pop()


def classes(config: Config) -> int:
  """Length of the logits."""
  return len(config.get("id2label") or range(config.get("num_labels", 2)))


def ratio(hidden: Sequence[int], features: Sequence[int]) -> float | None:
  """The least r with int(r f) == h for all pairs; None if there is none.

  The quotient alone may be a unit in the last place too small, and the integer
  then too small by one. What rounds gets the same integers.
  """
  least = 0.0
  for h, f in zip(hidden, features, strict=True):
    own = h / f
    while own * f < h:
      own = math.nextafter(own, math.inf)
    least = max(least, own)
  fits = all(int(least * f) == h for h, f in zip(hidden, features, strict=True))
  return least if fits else None


def labels(count: int) -> dict[str, Any]:
  """So many classes, without names."""
  names = [f"LABEL_{i}" for i in range(count)]
  return {
    "id2label": {str(i): name for i, name in enumerate(names)},
    "label2id": {name: i for i, name in enumerate(names)},
  }
