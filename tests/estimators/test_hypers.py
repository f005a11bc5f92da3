"""Hyper-parameters of estimators are traced, broadcast, and get no gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jbin import errors, estimators
from tests import programs

SHAPE = (4, 6)
# function of (x, hyper), and the name in words
MEMBERS = {
  "reste_sign o": estimators.reste_sign,
  "reste_sign t": lambda x, t: estimators.reste_sign(x, 3.0, t=t),
  "reste_sign m": lambda x, m: estimators.reste_sign(x, 3.0, m=m / 10),
  "ede_sign t": estimators.ede_sign,
  "ede_sign k": lambda x, k: estimators.ede_sign(x, 1.0, k=k),
  "rbnn_sign t": estimators.rbnn_sign,
  "rbnn_sign k": lambda x, k: estimators.rbnn_sign(x, 0.5, k=k),
  "sine_sign omega": estimators.sine_sign,
}
every_member = pytest.mark.parametrize("f", MEMBERS.values(), ids=MEMBERS)


def _gradients(f, x, hyper):
  y, back = jax.vjp(f, x, hyper)
  return y, *back(jnp.ones_like(y))


def _x():
  return np.linspace(-1.9, 2, 24, dtype=np.float32).reshape(SHAPE)


@every_member
def test_a_new_value_compiles_nothing(f):
  run = programs.Jit(functools.partial(_gradients, f))
  results = [run(_x(), np.float32(hyper)) for hyper in (1.0, 1.5, 2.5)]
  assert run.traces == 1
  for _, _, dhyper in results:
    assert dhyper == 0
  first, *_, last = (dx for _, dx, _ in results)
  assert (np.asarray(first) != np.asarray(last)).any()


@every_member
@pytest.mark.parametrize("shape", [(1, 6), (4, 1), SHAPE], ids=str)
def test_an_array_is_a_number_for_each_entry(f, shape):
  hyper = np.linspace(1, 3, np.prod(shape), dtype=np.float32).reshape(shape)
  y, dx, dhyper = _gradients(f, jnp.asarray(_x()), jnp.asarray(hyper))
  np.testing.assert_array_equal(dhyper, np.zeros(shape))
  each = np.broadcast_to(hyper, SHAPE)
  for at in np.ndindex(*SHAPE):
    one, done, _ = _gradients(f, jnp.asarray(_x()[at]), jnp.asarray(each[at]))
    assert one == y[at]
    np.testing.assert_allclose(done, dx[at], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
  ("options", "text"),
  [({"o": 0.5}, "o must be >= 1, got 0.5"), ({"o": 2, "m": 0.0}, "positive")],
)
def test_reste_sign_refuses_what_has_no_power(options, text):
  with pytest.raises(errors.UserError, match=text):
    estimators.reste_sign(jnp.ones(3), **options)


def test_sine_sign_alternates():
  """Half periods of pi / omega; the slope is steepest where the sign turns."""
  x = jnp.asarray([0.25, 0.75, 1.25, 1.75, -0.25]) * jnp.pi
  y, dx, _ = _gradients(estimators.sine_sign, x, jnp.float32(2.0))
  np.testing.assert_array_equal(y, [1, -1, 1, -1, -1])
  np.testing.assert_allclose(dx, 0, atol=1e-5)
  _, dx, _ = _gradients(
    estimators.sine_sign, jnp.asarray([0.0, jnp.pi / 2]), jnp.float32(2.0)
  )
  np.testing.assert_allclose(dx, [2, -2], rtol=1e-6)
