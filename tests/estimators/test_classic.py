"""What Larq's, BNN+'s and DSQ's estimators promise beside the contract."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jbin import errors, estimators
from jbin.estimators import _dsq

SHAPE = (8, 24)
G = np.linspace(-2, 3, np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
X = np.linspace(-3, 3, np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)


@pytest.mark.parametrize("shape", [(1, 1), (8, 1), (1, 24), SHAPE])
@pytest.mark.parametrize("keep_ties", [True, False])
def test_ste_tern_with_arrays(shape, keep_ties):
  threshold = np.linspace(0.25, 1, np.prod(shape), dtype=np.float32)
  threshold = threshold.reshape(shape)
  x = np.where(np.arange(24) % 2, -np.broadcast_to(threshold, SHAPE), X)
  run = functools.partial(estimators.ste_tern, keep_ties=keep_ties)
  y, pull = jax.vjp(run, x, threshold, 2 * threshold)
  kept = abs(x) >= threshold if keep_ties else abs(x) > threshold
  np.testing.assert_array_equal(y, np.sign(x) * kept)
  dx, dthreshold, dclip = pull(G)
  np.testing.assert_array_equal(dx, np.where(abs(x) <= 2 * threshold, G, 0))
  np.testing.assert_array_equal(dthreshold, np.zeros(shape))
  np.testing.assert_array_equal(dclip, np.zeros(shape))


@pytest.mark.parametrize("shape", [(), (1, 1), (1, 24), (8, 1), SHAPE])
def test_swish_sign_learns_beta(shape):
  beta = np.linspace(1, 3, int(np.prod(shape)), dtype=np.float32)
  beta = beta.reshape(shape)

  def curve(x, beta):
    u = jax.nn.sigmoid(beta * x)
    return 2 * u * (1 + beta * x * (1 - u)) - 1

  pair = []
  for function in (estimators.swish_sign, curve):
    _, pull = jax.vjp(function, X, beta)
    pair.append(pull(G))
  for got, want in zip(*pair, strict=True):
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("sharp", [0.0, 1.0, 3e38])
def test_swish_sign_at_infinity(sharp):
  x = jnp.array([np.inf, -np.inf, 3e38, 1.0, 0.0])
  _, pull = jax.vjp(estimators.swish_sign, x, jnp.float32(sharp))
  dx, dbeta = pull(jnp.ones(5))
  assert np.isfinite(dx).all()
  assert np.isfinite(dbeta)
  np.testing.assert_array_equal(dx[:3], 0)


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("shape", [(1, 1), (1, 24)])
def test_dsq_has_the_gradients_of_the_soft_staircase(bits, shape):
  low = np.linspace(-1.5, -1, shape[1], dtype=np.float32).reshape(shape)
  ends = (low, low + 2.25, np.full(shape, 0.2, np.float32))
  _, pull = jax.vjp(functools.partial(estimators.dsq, bits=bits), X, *ends)
  got = pull(G)

  def total(x, *ends):
    soft = _dsq.soft_staircase(jnp.asarray(x), ends, 2**bits - 1)
    return (np.asarray(soft, np.float64) * G).sum()

  assert total(X, *ends) != 0
  step = 2e-3
  for i, part in enumerate(ends):
    want = np.zeros(shape)
    for at in np.ndindex(*shape):
      pair = []
      for side in (step, -step):
        moved = part.copy()
        moved[at] += side
        pair.append(total(X, *ends[:i], moved, *ends[i + 1 :]))
      want[at] = (pair[0] - pair[1]) / (2 * step)
    np.testing.assert_allclose(got[i + 1], want, rtol=0.02, atol=0.05)


def test_dsq_of_a_collapsed_range_and_of_any_alpha_is_finite():
  x = jnp.array([-np.inf, -1.0, 0.0, 0.5, 1.0, np.inf])
  for low, high in ((0.0, 0.0), (0.5, -0.5)):
    for alpha in (-1.0, 0.0, 0.2, 1.0, 3.0):
      ends = [jnp.float32(end) for end in (low, high, alpha)]
      y, pull = jax.vjp(functools.partial(estimators.dsq, bits=2), x, *ends)
      assert np.isfinite(y).all()
      assert all(np.isfinite(d).all() for d in pull(jnp.ones(6)))


def test_stochastic_sign_is_right_on_average():
  x = np.linspace(-3, 3, 13, dtype=np.float32)
  draw = (np.arange(1000, dtype=np.float32)[:, None] + 0.5) / 1000
  many = np.broadcast_to(x, (1000, 13))
  y = 2.0 * estimators.stochastic_sign(jnp.asarray(many), draw, 2.0)
  np.testing.assert_allclose(y.mean(0), np.clip(x, -2, 2), atol=2e-3)


@pytest.mark.parametrize(
  ("call", "text"),
  [
    (lambda x: estimators.ste_tern(x, edge="opn"), "unknown edge 'opn'"),
    (lambda x: estimators.ste_heaviside(x, edge="half"), "unknown edge 'half'"),
    (lambda x: estimators.dsq(x, 0, 1, bits=0), "bits must be at least 1"),
  ],
)
def test_bad_options_are_user_errors(call, text):
  with pytest.raises(errors.UserError, match=text):
    call(jnp.ones(3))
