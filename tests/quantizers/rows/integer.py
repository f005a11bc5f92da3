"""Integers: symmetric, between bounds, in groups, with half a step of room."""

import numpy as np

from jbin import quantizers
from tests.quantizers import formulas
from tests.quantizers.formulas import CHANNEL, EXAMPLE, TENSOR
from tests.quantizers.row import Row

GROUPS = (-2, -1)  # what a step may vary along


def over(x, kept, group):
  """The axes of `x`, split into groups along the last but one, that share."""
  axes = formulas.over(x, kept)
  if group is None:
    return x, axes
  split = x.ndim - 2
  shape = (*x.shape[:split], -1, group, x.shape[-1])
  return x.reshape(shape), tuple(a + (a >= split) for a in axes)


def rounded(steps, low, high, zero=0):
  """Integers about `zero`; NaN at a tie, which XLA's division may break."""
  tie = (abs(abs(steps) % 1 - 0.5) < 1e-5) & (steps + zero < high)
  codes = np.clip(np.round(steps + zero), low, high) - zero
  return np.where(tie, np.nan, codes)


def absmax(p, kept, *, group=None, half=False):
  limit = 2 ** (p - 1) - 1

  def formula(x):
    parts, axes = over(x, kept, group)
    bound = np.float32(limit + 0.5 if half else limit)
    s = abs(parts).max(axes, keepdims=True) / bound
    s = np.where(s > 1e-19, s, np.float32(1))
    steps = parts / s
    y = s * rounded(steps, -limit - half, limit)
    return y.reshape(x.shape), np.ones_like(x)

  return formula


def minmax(p, kept, *, group=None):
  n = 2**p - 1

  def formula(x):
    parts, axes = over(x, kept, group)
    low = np.minimum(parts.min(axes, keepdims=True), 0)
    high = np.maximum(parts.max(axes, keepdims=True), 0)
    s = (high - low) / np.float32(n)
    s = np.where(s > 1e-19, s, np.float32(1))
    zero = np.clip(np.round(-low / s), 0, n)
    y = s * rounded(parts / s, 0, n, zero)
    return y.reshape(x.shape), np.ones_like(x)

  return formula


def rows():
  q = quantizers
  return {
    "absmax": [
      Row(q.absmax(8), absmax(8, CHANNEL), CHANNEL),
      Row(q.absmax(4, EXAMPLE), absmax(4, EXAMPLE), EXAMPLE),
      Row(q.absmax(2, TENSOR), absmax(2, TENSOR)),
      Row(q.absmax(4, group=5), absmax(4, CHANNEL, group=5), GROUPS),
      Row(q.absmax(4, TENSOR, 1), absmax(4, TENSOR, group=1), GROUPS),
      Row(q.absmax(8, TENSOR, half_step=True), absmax(8, TENSOR, half=True)),
      Row(q.absmax(4, half_step=True), absmax(4, CHANNEL, half=True), CHANNEL),
    ],
    "minmax": [
      Row(q.minmax(8), minmax(8, CHANNEL), CHANNEL),
      Row(q.minmax(4, EXAMPLE), minmax(4, EXAMPLE), EXAMPLE),
      Row(q.minmax(2, TENSOR), minmax(2, TENSOR)),
      Row(q.minmax(4, group=5), minmax(4, CHANNEL, group=5), GROUPS),
      Row(q.minmax(3, TENSOR, 1), minmax(3, TENSOR, group=1), GROUPS),
    ],
  }
