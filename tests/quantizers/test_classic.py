"""What the classic quantizers promise beside the contract."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jbin import errors, nn, quantizers, schedules
from tests.quantizers import formulas

RNG = np.random.default_rng(8)


def _lstsq(codes, x, start, ridge):
  """Least squares with a ridge towards `start`, in float64."""
  gram = codes.T @ codes + ridge * np.eye(codes.shape[1])
  return np.linalg.solve(gram, codes.T @ x + ridge * start)


def _codes(x, basis, values):
  """The codes of the entries of x under a basis."""
  table = np.array(list(itertools.product(values, repeat=len(basis))))
  levels = table @ basis
  order = np.argsort(levels)
  middles = (levels[order][1:] + levels[order][:-1]) / 2
  return table[order][(x[:, None] > middles).sum(-1)]


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_lqnet_weight_refits_each_channel(bits):
  x = RNG.normal(size=(3, 3, 8, 5)).astype(np.float32)
  quantizer = quantizers.lqnet_weight(bits, rate=1.0)
  start = quantizer.statistics(5, x)["basis"]
  sd = np.sqrt(2 / (3 * 3 * 5))
  want = 2.0 ** np.arange(bits) * 0.6745 * sd / 2 ** (bits - 1)
  np.testing.assert_allclose(start, np.tile(want, (5, 1)), rtol=1e-6)
  basis = RNG.uniform(0.2, 1.0, (5, bits)).astype(np.float32)
  new = jax.jit(quantizer.update)(x, progress=None, basis=basis)["basis"]
  for c in range(5):
    flat = x[..., c].ravel().astype(np.float64)
    codes = _codes(flat, basis[c].astype(np.float64), (-1, 1))
    want = _lstsq(codes, flat, basis[c], 1e-4)
    np.testing.assert_allclose(new[c], want, rtol=1e-5, atol=1e-6)
  slow = quantizers.lqnet_weight(bits).update(x, progress=None, basis=basis)
  near = 0.9 * basis + 0.1 * np.asarray(new)
  np.testing.assert_allclose(slow["basis"], near, rtol=1e-5)


def test_lqnet_keeps_what_the_codes_leave_open():
  """All entries have one code: only the sum of the basis is settled."""
  x = np.full((40, 3), 5.0, np.float32)
  weight = quantizers.lqnet_weight(2, rate=1.0)
  basis = jnp.array([[0.5, 1.0]] * 3)
  new = weight.update(x, progress=None, basis=basis)["basis"]
  np.testing.assert_allclose(new, [[2.25, 2.75]] * 3, rtol=1e-5)
  activation = quantizers.lqnet_activation(2, rate=1.0)
  new = activation.update(0 * x, progress=None, basis=basis[0])["basis"]
  np.testing.assert_array_equal(new, basis[0])
  start = activation.statistics(3)["basis"]
  np.testing.assert_allclose(start, [2 * 0.6745 / 3, 4 * 0.6745 / 3], rtol=1e-6)


@pytest.mark.parametrize("kept", [(), (-1,)])
@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_abcnet_weight_is_least_squares(count, kept):
  x = RNG.normal(size=(6, 7, 4)).astype(np.float32)
  quantizer = quantizers.abcnet_weight(count, kept)
  bases, alpha = jax.jit(quantizer.fit)(x)
  np.testing.assert_allclose(
    quantizer(jnp.asarray(x)).value, (bases * alpha).sum(-1), atol=1e-6
  )
  bases, alpha = np.asarray(bases), np.broadcast_to(alpha, bases.shape)
  channels = range(4) if kept else [slice(None)]
  for c in channels:
    flat, want = bases[..., c, :].reshape(-1, count), x[..., c].ravel()
    best = np.linalg.lstsq(flat, want, rcond=1e-6)[0]
    got = alpha[..., c, :].reshape(-1, count)[0]
    # Of bases that coincide, least squares shares evenly too.
    np.testing.assert_allclose(got, best, atol=2e-6)


def test_abcnet_weight_meets_two_levels():
  """Every entry is one deviation from the mean, or rounding says not."""
  x = np.where(RNG.random((8, 6)) < 0.5, -0.3, 0.3).astype(np.float32)
  x[:4], x[4:] = abs(x[:4]), -abs(x[:4])
  for count in range(1, 6):
    quantizer = quantizers.abcnet_weight(count)
    value, pull = jax.vjp(lambda x, q=quantizer: q(x).value, jnp.asarray(x))
    np.testing.assert_allclose(value, x, rtol=1e-5)
    np.testing.assert_allclose(pull(np.ones_like(x))[0], 0.3, rtol=1e-5)


def test_equal_bases_of_an_activation_stay_equal():
  """Why the shifts start apart."""
  x, g = formulas.tensor(), RNG.normal(size=formulas.SHAPE)
  apart = quantizers.abcnet_activation(3)
  equal = quantizers.abcnet_activation(3, (0.0, 0.0, 0.0))
  for quantizer, differ in ((apart, True), (equal, False)):
    start = quantizer.parameters(16)
    _, pull = jax.vjp(lambda v, q=quantizer: q(x, **v).value, start)
    (learned,) = pull(jnp.asarray(g, jnp.float32))
    for gradient in learned.values():
      assert (len(np.unique(gradient)) > 1) == differ


def test_binaryconnect_draws_in_training_only():
  x = RNG.uniform(-1, 1, (4, 64)).astype(np.float32)
  layer = nn.Linear(
    64,
    32,
    kernel_quantizer=quantizers.binaryconnect(mode="stochastic"),
    rngs=nnx.Rngs(0),
  )
  assert not (layer(x) == layer(x)).all()
  still = nnx.view(layer, use_running_average=True)
  plain = np.where(layer.kernel[...] >= 0, 1.0, -1.0)
  np.testing.assert_allclose(still(x), x @ plain, rtol=1e-5, atol=1e-5)


def test_binaryconnect_s_glorot_limit():
  quantizer = quantizers.binaryconnect("glorot")
  assert quantizer.limit((20, 30)) == pytest.approx((1.5 / 50) ** 0.5)
  fans = 9 * 4 + 9 * 6
  assert quantizer.limit((3, 3, 4, 6)) == pytest.approx((1.5 / fans) ** 0.5)


def test_dsq_starts_from_the_tensor():
  x = formulas.tensor()
  start = quantizers.dsq(2).parameters(16, jnp.asarray(x))
  assert [float(v[0]) for v in start.values()] == [
    x.min(),
    x.max(),
    np.float32(0.2),
  ]
  assert quantizers.dsq(2).calibrates
  given = quantizers.dsq(2, 0.0, 6.0, 0.1)
  assert not given.calibrates
  start = given.parameters(16, jnp.asarray(x))
  assert [float(v[0]) for v in start.values()] == [0, 6, np.float32(0.1)]
  start = quantizers.dsq(2).parameters(16)
  assert [float(v[0]) for v in start.values()] == [-3, 3, np.float32(0.2)]


def test_pact_of_no_height():
  quantizer, x = quantizers.pact(2), formulas.tensor()
  for alpha in (0.0, -1.0):
    y, pull = jax.vjp(
      lambda x, a: quantizer(x, alpha=a).value, x, jnp.full(1, alpha)
    )
    dx, dalpha = pull(np.ones_like(x))
    np.testing.assert_array_equal(dx, 0)
    np.testing.assert_array_equal(y, np.where(x < 0, 0, alpha))
    assert dalpha == (x >= 0).sum()


@pytest.mark.parametrize(
  ("make", "text"),
  [
    (
      lambda: quantizers.swish_sign(schedules.linear(1, 5), learned=True),
      "a learned beta starts from a number",
    ),
    (lambda: quantizers.binaryconnect("glrot"), "unknown h 'glrot'"),
    (lambda: quantizers.binaryconnect(0.0), "h must be positive"),
    (
      lambda: quantizers.binaryconnect(mode="random"),
      "unknown mode 'random'; ",
    ),
    (lambda: quantizers.binaryconnect(zero=0.0), "zero must be 1 or -1"),
    (
      lambda: quantizers.abcnet_weight(0),
      "abcnet_weight: bases must be an integer from 1 to 8, got 0",
    ),
    (
      lambda: quantizers.abcnet_activation(2, (0.0,)),
      "2 bases need as many shifts",
    ),
    (lambda: quantizers.xnor(gradient="exct"), "did you mean exact"),
  ],
)
def test_bad_options_are_user_errors(make, text):
  with pytest.raises(errors.UserError, match=text):
    make()
