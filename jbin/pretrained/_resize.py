"""Tables of positions, for images or texts of another size."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from jbin.pretrained import _axes

Shape = _axes.Shape


class Resize(NamedTuple):
  """What makes one table of another; axes are the same in ours and theirs."""

  fits: Callable[[Shape, Shape], bool]
  # (theirs, ours): whether one can become the other.
  run: Callable[[np.ndarray, Shape], np.ndarray]
  # (theirs, our shape) -> ours, in float32.


def _cubic(image: np.ndarray, side: int) -> np.ndarray:
  """(side, side, c) of another side."""
  shape = (side, side, image.shape[-1])
  return np.asarray(jax.image.resize(image, shape, "cubic"))


def _square(*counts: int) -> bool:
  return all(n > 0 and math.isqrt(n) ** 2 == n for n in counts)


def _after_token_fits(theirs: Shape, ours: Shape) -> bool:
  return (
    len(theirs) == len(ours) == 3
    and theirs[::2] == ours[::2]
    and _square(theirs[1] - 1, ours[1] - 1)
  )


def _after_token(table: np.ndarray, shape: Shape) -> np.ndarray:
  """(1, 1 + side^2, c): the class token's row stays."""
  before, after = (math.isqrt(n - 1) for n in (table.shape[1], shape[1]))
  image = table[0, 1:].reshape(before, before, -1)
  rows = _cubic(image, after).reshape(1, after**2, -1)
  return np.concatenate([table[:, :1], rows], 1)


def _squares_fit(theirs: Shape, ours: Shape) -> bool:
  return (
    len(theirs) == len(ours) == 4
    and theirs[::3] == ours[::3]
    and _square(*theirs[1:3], *ours[1:3])
  )


def _squares(table: np.ndarray, shape: Shape) -> np.ndarray:
  """(1, squares of the image, tokens of a square, c): of the whole image."""
  n, size = (math.isqrt(count) for count in table.shape[1:3])
  image = table.reshape(n, n, size, size, -1).swapaxes(1, 2)
  m, new = (math.isqrt(count) for count in shape[1:3])
  image = _cubic(image.reshape(n * size, n * size, -1), m * new)
  return image.reshape(m, new, m, new, -1).swapaxes(1, 2).reshape(shape)


AFTER_TOKEN = Resize(_after_token_fits, _after_token)
"""Of an image, behind a row for the class token."""

SQUARES = Resize(_squares_fit, _squares)
"""Of an image that is cut into squares."""

FIRST = Resize(
  lambda theirs, ours: theirs[1:] == ours[1:] and theirs[0] > ours[0],
  lambda table, shape: table[: shape[0]],
)
"""Of a text: the first rows of a longer table."""
