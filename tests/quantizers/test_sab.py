"""Softmax-aware binarization, and the search that it stands in for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jbin import errors, quantizers, schedules

ROWS = {
  "uniform": ([0.25] * 4, [1, 1, 1, 1]),
  "one-hot": ([0.0, 1.0, 0.0, 0.0], [0, 1, 0, 0]),
  "a tie at the top": ([0.45, 0.05, 0.05, 0.45], [1, 0, 0, 1]),
  "just the threshold": ([0.8, 0.2, 0.0, 0.0], [1, 1, 0, 0]),
  "below it": ([0.8, 0.1999, 0.0001, 0.0], [1, 0, 0, 0]),
  "zeros": ([0.0] * 4, [1, 1, 1, 1]),
  "a NaN": ([0.5, np.nan, 0.5, 0.0], [0, 0, 0, 0]),
  "an infinity": ([np.inf, 1.0, np.inf, 0.0], [1, 0, 1, 0]),
  "all infinite": ([np.inf] * 4, [1, 1, 1, 1]),
  "negative": ([-1.0, -2.0, -1.0, -np.inf], [1, 0, 1, 0]),
}


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_rows(dtype, scaled):
  rows, want = (np.float32(part) for part in zip(*ROWS.values(), strict=True))
  x = jnp.asarray(rows, dtype)
  want[list(ROWS).index("below it"), 1] = dtype == jnp.bfloat16  # it rounds
  q = jax.jit(quantizers.sab(scaled=scaled))(x)
  np.testing.assert_array_equal(q.codes, want)
  if not scaled:
    np.testing.assert_array_equal(q.value, want)
  assert np.isfinite(q.value).all()
  if scaled:
    assert q.scale.shape == (len(rows), 1)
    np.testing.assert_allclose(q.scale[0], 0.25)
    np.testing.assert_allclose(q.scale[2], 0.45, rtol=4e-3)


@pytest.mark.parametrize("scaled", [False, True])
def test_behind_softmax_the_gradient_is_softmax_s(scaled):
  """`da = p * (g - <g, p>)`, whatever the codes and their scale."""
  scores, g = np.random.default_rng(0).normal(size=(2, 3, 7))
  scores, g = np.float32(3 * scores), np.float32(g)
  spec = quantizers.sab(scaled=scaled)
  y, pull = jax.vjp(lambda a: spec(jax.nn.softmax(a)).value, scores)
  p = np.asarray(jax.nn.softmax(scores))
  want = p * (g - (g * p).sum(-1, keepdims=True))
  np.testing.assert_allclose(pull(g)[0], want, atol=1e-6)
  assert ((y != 0).sum(-1) >= 1).all()


def test_the_share_is_checked():
  assert quantizers.sab(schedules.linear(0.2, 0.4)).scheduled
  with pytest.raises(errors.UserError, match="it is a share"):
    quantizers.sab(1.5)


def _errors(rows, codes, scale):
  return np.square(rows - scale * codes).mean(-1)


@pytest.fixture(name="rows")
def rows_():
  rng = np.random.default_rng(1)
  return np.asarray(jax.nn.softmax(rng.normal(size=(4, 8, 24)) * 2.5))


def test_coordinate_descent_lowers_the_error(rows):
  """And ends below that of the rule of thumb, on average."""
  found = jax.jit(quantizers.coordinate_descent)(rows)
  assert found.codes.shape == (5, *rows.shape)
  assert found.scale.shape == found.threshold.shape == (5, 4, 8, 1)
  np.testing.assert_allclose(found.scale[0, ..., 0], rows.mean(-1), rtol=1e-5)
  steps = [
    _errors(rows, np.asarray(codes), np.asarray(scale)).mean()
    for codes, scale in zip(found.codes, found.scale, strict=True)
  ]
  assert steps == sorted(steps, reverse=True)
  thumb = quantizers.sab(scaled=True)(rows)
  assert steps[-1] <= _errors(rows, thumb.codes, thumb.scale).mean()
  assert (found.codes.sum(-1) >= 1).all()


def test_coordinate_descent_of_rows_without_a_choice():
  rows = np.float32([[0.25] * 4, [0, 1, 0, 0], [0] * 4])
  found = quantizers.coordinate_descent(rows, iterations=3)
  want = np.float32([[1] * 4, [0, 1, 0, 0], [1] * 4])
  np.testing.assert_array_equal(found.codes[-1], want)
  np.testing.assert_allclose(found.scale[-1, :, 0], [0.25, 1, 0])
  narrow = quantizers.coordinate_descent(jnp.asarray(rows, jnp.bfloat16))
  assert narrow.scale.dtype == jnp.float32
  with pytest.raises(errors.UserError, match="iterations is 0; it is at least"):
    quantizers.coordinate_descent(rows, 0)
