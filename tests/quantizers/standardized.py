"""Standardization in numpy, with its pull-back, float64."""

import numpy as np

from tests.quantizers import formulas


def moments(x, kept):
  """Deviations from the mean, their number, and the sum of their squares."""
  axes = formulas.over(x, kept)
  d = x - x.mean(axes, keepdims=True, dtype=np.float64)
  count = np.prod([x.shape[axis] for axis in axes])
  return axes, d, count, (d**2).sum(axes, keepdims=True)


def standardized(x, kept, ddof=1, eps=0.0, centered=True):
  """(x - mean) / sqrt(var + eps) and dv -> dx; zeros where all are equal.

  Not centered: x / sqrt(var + eps).
  """
  axes, d, count, squares = moments(x, kept)
  var = squares / (count - ddof) + eps
  inverse = np.where(var > 0, 1 / np.sqrt(np.where(var > 0, var, 1)), 0.0)
  top = d if centered else x.astype(np.float64)

  def pull(dv):
    dvar = -0.5 * inverse**3 * (dv * top).sum(axes, keepdims=True)
    dx = dv * inverse + 2 * d * dvar / (count - ddof)
    return dx - dx.mean(axes, keepdims=True) if centered else dx

  return top * inverse, pull


def deviation(x, kept):
  """The population's sd and ds -> dx; 0 where all are equal."""
  _, d, count, squares = moments(x, kept)
  s = np.sqrt(squares / count)
  inverse = np.where(s > 0, 1 / np.where(s > 0, s, 1), 0.0)
  return s, lambda ds: ds * d * inverse / count
