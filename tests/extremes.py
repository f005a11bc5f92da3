"""Inputs at the ends of what floats hold, for whoever must not make a NaN."""

import numpy as np

VALUES = (
  *(np.inf, -np.inf, 1e-45, -1e-45, 0.0, 1.0, 3.4e38, -7.0),
  *(-3e38, 1e-30, 1e18, -1e-3, -0.0, 0.5, 3e-39, -1.0),
)
"""Infinities, subnormals, zeros, the largest floats, and ordinary ones."""

SCALES = (1e38, 1e-16, 1e-20, 1e-40)
"""Of a tensor: sums overflow; squares of deviations and more underflow."""


def constant(shape, axis):
  """Slices along `axis` that are constant, each one of `VALUES`."""
  ends = np.resize(np.float32(VALUES), shape[axis])
  along = [1] * len(shape)
  along[axis] = -1
  return np.broadcast_to(ends.reshape(along), shape).copy()


def tensors(ordinary):
  """Tensors like `ordinary`, float32, of a shape (examples, ..., channels).

  Constant ones, constant slices along each axis, an extreme or two in each
  channel among ordinary entries, and all entries extreme.
  """
  shape = ordinary.shape
  for value in (0.0, np.inf, -np.inf, 3.4e38):
    yield np.full(shape, value, np.float32)
  for axis in range(len(shape)):
    yield constant(shape, axis)
  among = ordinary.copy()
  among[0] = constant(shape[1:], -1)
  among[-1, 0] = -among[0, 0]
  yield among
  with np.errstate(over="ignore"):
    for scale in SCALES:
      yield ordinary * np.float32(scale)
  yield np.where(ordinary > 0, np.inf, -np.inf).astype(np.float32)
