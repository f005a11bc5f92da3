"""What the contract's tests share: the members, and how a row is checked.

A row is a quantizer with its options, and its value and gradient in plain
numpy, of float32 where an edge must be met exactly.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import programs
from tests.quantizers import formulas
from tests.quantizers.formulas import SHAPE
from tests.quantizers.rows import ROWS

MEMBERS = [
  pytest.param(row, id=f"{name}-{i}")
  for name, rows in ROWS.items()
  for i, row in enumerate(rows)
]
DTYPES = (jnp.float32, jnp.bfloat16)
every_row = pytest.mark.parametrize("row", MEMBERS)
every_dtype = pytest.mark.parametrize(
  "dtype", DTYPES, ids=("float32", "bfloat16")
)


def rows_that(holds):
  """A test's rows: those of which `holds` is true."""
  chosen = [param for param in MEMBERS if holds(param.values[0])]
  return pytest.mark.parametrize("row", chosen)


def quantizers_that(holds=lambda row: True):
  """A test's rows: each quantizer's first, of which `holds` is true."""
  chosen = {name: rows[0] for name, rows in ROWS.items() if holds(rows[0])}
  return pytest.mark.parametrize("row", chosen.values(), ids=chosen)


def upstream():
  """A gradient of the value, of the tensor's shape."""
  return np.linspace(-1, 2, np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)


def quantize(row, x, variables):
  """The quantizer's result at the row's progress."""
  progress = None if row.progress is None else jnp.float32(row.progress)
  return row.quantizer(x, progress=progress, **variables)


def learned(row, x):
  """The names of what the quantizer learns."""
  key = jax.random.key(0) if row.quantizer.seeded else None
  return jax.eval_shape(
    lambda x: row.quantizer.parameters(x.shape[-1], x, key), x
  )


def split(row, x, variables):
  """What is learned, and the rest of the variables."""
  names = learned(row, x)
  return (
    {name: value for name, value in variables.items() if name in names},
    {name: value for name, value in variables.items() if name not in names},
  )


def pair(row, x, g, variables, progress):
  """Everything that a quantizer gives, and the pull-back of `g`."""
  values, rest = split(row, x, variables)

  def run(x, values):
    q = row.quantizer(x, progress=progress, **values, **rest)
    return q.value, q

  _, pull, q = jax.vjp(run, x, values, has_aux=True)
  return q, *pull(g)


@functools.cache
def jitted(row):
  """`pair` of (x, g, variables, progress), one trace for each dtype."""
  return programs.Jit(functools.partial(pair, row))


def at(row):
  """The row's progress, as a program's argument."""
  return None if row.progress is None else np.float32(row.progress)


def run(row, x, dtype=jnp.float32, values=None):
  """(x and g as float32 reads them), (result, gradients).

  `values`: what is learned and measured; None: as the row has it.
  """
  x, g = jnp.asarray(x, dtype), jnp.asarray(upstream(), dtype)
  wide = np.asarray(x, np.float32)
  values = row.values(wide) if values is None else values
  got = jitted(row)(x, g, values, at(row))
  return (wide, np.asarray(g, np.float32)), got


def _close(got, want, rtol):
  """As near as `rtol` of the largest entry; NaN in `want` is not compared."""
  got, want = np.asarray(got, np.float32), np.asarray(want, np.float32)
  either = np.isnan(want)
  assert either.mean() < 0.02
  largest = float(np.nanmax(abs(want), initial=0))
  np.testing.assert_allclose(
    np.where(either, 0, got),
    np.where(either, 0, want),
    rtol=rtol,
    atol=rtol * max(largest, 1.0),
  )


def check(row, x, g, got, dtype=jnp.float32):
  """That the value and the gradients `got` at `x` are the row's."""
  value, dx, dlearned = got
  rtol = row.rtol if dtype == jnp.float32 else row.rtol16
  want, pull, *more = row.formula(x)
  _close(value, want, rtol)
  _close(dx, pull(g) if callable(pull) else g * pull, 2 * rtol)
  pulls = more[0] if more else {}
  assert set(pulls) == set(dlearned), "the row lacks a learned gradient"
  for name, pull in pulls.items():
    want = pull(g) if callable(pull) else g * pull
    _close(np.reshape(dlearned[name], np.shape(want)), want, 8 * rtol)


def check_codes(q):
  """That codes are integers between the least and the greatest."""
  codes = np.asarray(q.codes, np.float32)
  low, high = q.levels
  assert low <= codes.min()
  assert codes.max() <= high
  assert (codes == np.round(codes)).all()
  return codes


def ordinary():
  """A tensor that is nowhere within 1e-5 of an edge, unlike `tensor`."""
  return np.random.default_rng(7).normal(size=SHAPE).astype(np.float32)


def passes(row):
  """Whether the row is the identity: a tag alone, or not active yet."""
  return row.formula is formulas.floats
