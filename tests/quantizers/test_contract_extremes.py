"""What every quantizer owes at infinities, subnormals, constants and zeros."""

import numpy as np

from jbin import quantizers
from tests import extremes, programs
from tests.quantizers import contract, formulas
from tests.quantizers.formulas import SHAPE
from tests.quantizers.row import start


def _settings(row, x):
  """What the row is called with, and the initial values that `x` gives."""
  yield row.values(formulas.tensor())
  if row.variables is None and contract.learned(row, x):
    yield start(row.quantizer)(x)


def _check(row, x, q, gradients):
  for name, gradient in gradients.items():
    assert np.isfinite(gradient).all(), f"gradient of {name}"
  if contract.passes(row):
    np.testing.assert_array_equal(np.asarray(q.value, np.float32), x)
    return
  assert np.isfinite(q.value).all()
  for part in (q.scale, q.offset):
    assert part is None or np.isfinite(part).all()
  if q.codes is not None:
    contract.check_codes(q)


@contract.every_row
@contract.every_dtype
def test_nothing_makes_a_nan(row, dtype):
  """All is finite, the gradients of what is learned too; codes are levels.

  The papers' formulas have infinities (a mean of them is the scale, say):
  statistics see no more than `_parts.MOST` of a magnitude. What passes its
  input passes an infinity.
  """
  for x in extremes.tensors(formulas.tensor()):
    x = np.asarray(np.asarray(x, dtype), np.float32)
    for values in _settings(row, x):
      (wide, _), (q, dx, dlearned) = contract.run(row, x, dtype, values)
      _check(row, wide, q, {"x": dx, **dlearned})


def _measures(row):
  return type(row.quantizer).update is not quantizers.Quantizer.update


@contract.quantizers_that(_measures)
def test_statistics_stay_finite(row):
  """After a step that saw an extreme; another step, another progress: no trace.

  A statistic that an infinity or a NaN has reached would keep it.
  """
  q, x = row.quantizer, formulas.tensor()
  update = programs.Jit(q.update)
  steps = list(extremes.tensors(x))
  for step, seen in enumerate(steps):
    state = q.statistics(SHAPE[-1], x)
    progress = np.float32(step / len(steps))
    for each in (seen, x):
      state = update(each, progress=progress, **state)
    for name, value in state.items():
      assert np.isfinite(value).all(), name
    _, (got, *_) = contract.run(row, x, values={**row.values(x), **state})
    assert np.isfinite(got.value).all()
  assert update.traces == 1
