"""How an array of ours becomes a tensor of theirs: a letter for each axis."""

from __future__ import annotations

import math
import re

import numpy as np

Shape = tuple[int, ...]


def _sides(spec: str) -> tuple[str, list[str], str]:
  """Letters of ours, of each axis of theirs, and of theirs in a row."""
  ours, theirs = spec.split("->")
  groups = re.findall(r"(?<=\()\w+(?=\))|\w", theirs)
  return ours, groups, "".join(groups).replace("1", "")


def their_shape(spec: str, shape: Shape) -> Shape:
  """The shape of the tensor that our array of `shape` becomes."""
  ours, groups, _ = _sides(spec)
  sizes = {"1": 1, **dict(zip(ours, shape, strict=True))}
  return tuple(math.prod(sizes[c] for c in group) for group in groups)


def to_theirs(spec: str, array: np.ndarray) -> np.ndarray:
  """Our array as their tensor: `"ihd->(hd)i"` transposes, then merges.

  A letter is an axis, letters in brackets are one axis, the first slowest; a 1
  is an axis of theirs that ours lacks.
  Elements are moved, not changed: `to_ours` undoes it bit for bit.
  """
  ours, _, letters = _sides(spec)
  order = [ours.index(letter) for letter in letters]
  return array.transpose(order).reshape(their_shape(spec, array.shape))


def to_ours(spec: str, tensor: np.ndarray, shape: Shape) -> np.ndarray:
  """Their tensor as our array of `shape`; the inverse of `to_theirs`."""
  ours, _, letters = _sides(spec)
  split = tensor.reshape([shape[ours.index(letter)] for letter in letters])
  return split.transpose([letters.index(letter) for letter in ours])
