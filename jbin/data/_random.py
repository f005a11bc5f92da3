"""Random numbers that depend on where they are used, not on who draws them.

A generator that is carried along gives each worker and process other numbers.
Here a number is a hash of (seed, position, which draw), so the augmentation of
an example is the same wherever it is computed, and a batch of them is one
vectorised expression. The hash is the finaliser of splitmix64.
"""

from __future__ import annotations

import numpy as np

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def mix(x: np.ndarray) -> np.ndarray:
  """One step of splitmix64 on each element: a bijection of uint64.

  Args:
    x: uint64 of any shape but (): arrays wrap around silently.
  """
  z = x + _GAMMA
  z = (z ^ (z >> np.uint64(30))) * _FIRST
  z = (z ^ (z >> np.uint64(27))) * _SECOND
  return z ^ (z >> np.uint64(31))


def hash64(seed: int, positions: np.ndarray) -> np.ndarray:
  """A uint64 (n,) for each of n integer positions under this seed."""
  start = mix(np.asarray([seed % 2**64], np.uint64))
  return mix(start ^ mix(np.asarray(positions).astype(np.uint64)))


def uniforms(seed: int, positions: np.ndarray, draws: int) -> np.ndarray:
  """`draws` numbers in [0, 1) for each of n positions: float64 (n, draws).

  Row i depends on (seed, positions[i]) alone.
  """
  rows = hash64(seed, positions)[:, None]
  columns = np.arange(1, draws + 1, dtype=np.uint64)[None, :] * _GAMMA
  # 53 bits are what a float64 holds.
  return (mix(rows + columns) >> np.uint64(11)) * 2.0**-53
