"""What every quantizer owes of gradients: again, scheduled, and exported."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from jbin import schedules
from tests import programs
from tests.quantizers import contract, formulas

STEP = 1e-6  # of a difference, float64


def _still(x, way):
  """What of `way` leaves the means, magnitudes and ends of `x` as they are.

  To first order; those of slices along any axis, and of the whole.
  """
  statistics = [x == x.max(), x == x.min()]
  for axis in range(x.ndim):
    others = tuple(other for other in range(x.ndim) if other != axis)
    for about in (x, x - x.mean(), x - x.mean(others, keepdims=True)):
      for each in (np.ones_like(x), x, np.sign(about)):
        for index in range(x.shape[axis]):
          alone = np.zeros_like(x)
          place = (slice(None),) * axis + (index,)
          alone[place] = each[place]
          statistics.append(alone)
  basis = np.reshape(np.float64(statistics), (len(statistics), -1)).T
  fit, *_ = np.linalg.lstsq(basis, way.ravel(), rcond=None)
  return way - np.reshape(basis @ fit, way.shape)


@functools.cache
def _case(second):
  """A tensor, what its gradient is summed with, and a way that it may go."""
  x = contract.ordinary()
  weights, way = np.random.default_rng(8).normal(size=(2, *x.shape))
  return x, weights, _still(x, way) if second == "held" else way


def _weighted(row, x, weights):
  """The row's gradient, float64, summed with `weights`."""
  g = contract.upstream().astype(np.float64)
  _, pull, *_ = row.formula(x)
  return np.vdot(weights, pull(g) if callable(pull) else g * pull)


@contract.every_row
def test_second_derivative(row):
  """It is that of the row's gradient, and what is learned has a finite one.

  Along one random way, in which nothing moves that the quantizer holds.
  """
  x, weights, way = _case(row.second)
  values, rest = contract.split(row, x, row.values(x))

  def first(x, values):
    g = jnp.asarray(contract.upstream())
    got = contract.pair(row, x, g, {**values, **rest}, contract.at(row))
    return jnp.vdot(jnp.asarray(weights, jnp.float32), got[1])

  second = programs.once(jax.grad(first, (0, 1)))
  dx, dvalues = second(jnp.asarray(x), values)
  for part in (dx, *jax.tree.leaves(dvalues)):
    assert np.isfinite(part).all()
  if row.second == "finite":
    return
  ends = (x + STEP * way * sign for sign in (1, -1))
  above, below = (_weighted(row, end, weights) for end in ends)
  want = (above - below) / (2 * STEP)
  got = np.vdot(dx, way)
  size = float(np.linalg.norm(dx))
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * max(size, 1.0))


def _fixed(quantizer, progress):
  """The quantizer with the numbers that its schedules have at `progress`."""
  return dataclasses.replace(
    quantizer,
    **{
      field.name: float(schedules.value(hyper, progress))
      for field in dataclasses.fields(quantizer)
      if schedules.is_scheduled(hyper := getattr(quantizer, field.name))
    },
  )


@contract.rows_that(lambda row: row.progress is not None)
def test_a_schedule_s_values_compile_nothing(row):
  """One trace for any progress; the gradients are those of its numbers."""
  assert row.quantizer.scheduled
  x, g, late = formulas.tensor(), contract.upstream(), np.float32(0.9)
  values = row.values(x)
  run = programs.Jit(functools.partial(contract.pair, row))
  got = {p: run(x, g, values, p) for p in (np.float32(0), late)}
  q, *gradients = run(x, g, values, contract.at(row))
  assert run.traces == 1
  contract.check(row, x, g, (q.value, *gradients))
  fixed = dataclasses.replace(row, quantizer=_fixed(row.quantizer, late))
  static = programs.once(
    lambda x, g, values: contract.pair(fixed, x, g, values, late)
  )
  for mine, want in zip(
    jax.tree.leaves(got[late]),
    jax.tree.leaves(static(x, g, values)),
    strict=True,
  ):
    size = float(abs(np.float32(want)).max(initial=0))
    near = 5 * row.rtol * max(size, 1.0)
    np.testing.assert_allclose(
      np.float32(mine), np.float32(want), rtol=5 * row.rtol, atol=near
    )


@contract.quantizers_that()
def test_gradient_survives_export(row):
  """Of each quantizer's first row only: an export takes a quarter second."""
  x, g = formulas.tensor(), contract.upstream()
  values, rest = contract.split(row, x, row.values(x))

  def value(x, values, rest):
    progress = contract.at(row)
    return row.quantizer(x, progress=progress, **values, **rest).value

  again = programs.exported(value, x, values, rest)
  y, pull = jax.vjp(lambda x, values: again(x, values, rest), x, values)
  contract.check(row, x, g, (y, *pull(g)))
