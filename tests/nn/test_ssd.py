"""The state space by chunks is the one by tokens; the gated norm's errors."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jbin import errors, nn

DT = jax.nn.softplus


def _arrays(n, length, heads, groups, size=3, state=5, decay=4.0, dtype="f4"):
  """x, dt, a, b, c and a state to start from."""
  draw = np.random.default_rng(0).normal
  shapes = [(n, length, heads, size), (n, length, heads), (heads,)]
  shapes += [(n, length, groups, state)] * 2 + [(n, heads, size, state)]
  x, dt, a, b, c, start = (draw(size=s).astype("f4") for s in shapes)
  x, b, c = (jnp.asarray(v, dtype) for v in (x, b, c))
  return x, DT(dt), -decay * np.exp(a), b, c, start


@functools.partial(jax.jit, static_argnums=(0, 1))
def _run(function, options, x, dt, a, b, c, start=None):
  return function(x, dt, a, b, c, state=start, **dict(options))


def _chunks(arrays, chunk):
  return _run(nn.ssd, (("chunk", chunk),), *arrays)


def _close(got, want):
  for a, b in zip(got, want, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@hypothesis.settings(max_examples=12, deadline=None, derandomize=True)
@hypothesis.given(
  length=st.integers(0, 70),
  chunk=st.integers(1, 80),
  groups=st.integers(1, 2),
  each=st.integers(1, 3),
  n=st.integers(0, 2),
  started=st.booleans(),
)
def test_chunks_are_the_definition(length, chunk, groups, each, n, started):
  *arrays, start = _arrays(n, length, groups * each, groups)
  arrays += [start] if started else []
  _close(_chunks(arrays, chunk), _run(nn.ssd_scan, (), *arrays))


@pytest.mark.parametrize("length", [0, 15, 17])
def test_any_length_around_a_chunk(length):
  arrays = _arrays(2, length, 4, 2)
  y, state = _chunks(arrays, 16)
  assert y.shape == arrays[0].shape
  _close((y, state), _run(nn.ssd_scan, (), *arrays))


def test_pieces_are_the_whole():
  *arrays, state = _arrays(1, 40, 2, 1)
  whole = _chunks((*arrays, state), 8)
  found = []
  for begin, end in ((0, 8), (8, 11), (11, 11), (11, 40)):
    x, dt, a, b, c = arrays
    cut = [v[:, begin:end] for v in (x, dt, b, c)]
    y, state = _chunks((*cut[:2], a, *cut[2:], state), 8)
    found.append(y)
  _close((jnp.concatenate(found, 1), state), whole)


def test_gradients_are_those_of_the_definition():
  arrays = _arrays(2, 37, 4, 2)

  def loss(function, *arrays):
    *arrays, start = arrays
    y, state = function(*arrays, state=start)
    return jnp.sum(jnp.sin(y)) + jnp.sum(jnp.cos(state))

  pulls = [
    jax.jit(jax.grad(functools.partial(loss, function), argnums=range(6)))
    for function in (functools.partial(nn.ssd, chunk=20), nn.ssd_scan)
  ]
  for got, want in zip(*(pull(*arrays) for pull in pulls), strict=True):
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_strong_decay_over_a_long_text_has_finite_gradients():
  x, dt, a, b, c, _ = _arrays(1, 4096, 2, 1, decay=50.0)
  # Of one head nothing is left after a token, the other forgets nothing.
  a, dt = jnp.asarray([-1e3, 0.0]), 10 * dt

  @jax.jit
  @functools.partial(jax.value_and_grad, argnums=range(5))
  def pull(*arrays):
    y, state = nn.ssd(*arrays)
    return jnp.mean(jnp.square(y)) + jnp.mean(state)

  value, found = pull(x, dt, a, b, c)
  assert np.isfinite(value)
  assert all(np.isfinite(each).all() for each in found)
  alone = dt[..., 0, None] * x[:, :, 0] * jnp.sum(b * c, -1)
  y, _ = _chunks((x, dt, a, b, c), 256)
  np.testing.assert_allclose(y[:, :, 0], alone, rtol=1e-4, atol=1e-3)


def test_sums_of_decays_are_exact():
  """Not as the difference of two sums, which this far out are coarse."""
  q = 256
  a = -np.full(q, 1000.0, "f4")
  a[200:] = -1e-3
  one = jnp.ones((1, q, 1, 1))
  dt = jnp.ones((1, q, 1))
  x = one.at[:, :200].set(0).at[:, 201:].set(0)
  y, _ = nn.ssd(x, dt, jnp.asarray(a)[None, :, None], one, one)
  want = np.exp(-1e-3 * np.arange(56))
  np.testing.assert_allclose(y[0, 200:, 0, 0], want, rtol=1e-5)


def test_low_precision_has_a_state_in_float32():
  arrays = _arrays(1, 40, 2, 1, dtype="bfloat16")
  wide = [jnp.asarray(v, jnp.float32) for v in arrays]
  want, last = _chunks(wide, 16)
  for y, state in (_chunks(arrays, 16), _run(nn.ssd_scan, (), *arrays)):
    assert y.dtype == jnp.bfloat16
    assert state.dtype == jnp.float32
    np.testing.assert_allclose(state, last, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(y.astype("f4"), want, rtol=1e-2, atol=1e-2)


def test_backward_keeps_no_matrix_of_a_chunk():
  arrays = _arrays(1, 4096, 8, 1, size=4, state=4)[:5]
  loss = lambda *arrays: jnp.sum(nn.ssd(*arrays, chunk=256)[0])
  program = jax.jit(jax.grad(loss)).lower(*arrays).compile()
  analysis = program.memory_analysis()
  one_chunk = 4 * 8 * 256**2
  assert analysis.temp_size_in_bytes < 8 * one_chunk  # of 16 chunks


def test_errors_name_the_sizes_and_the_cure():
  arrays = _arrays(1, 4, 3, 2)
  for function in (nn.ssd, nn.ssd_scan):
    with pytest.raises(errors.UserError, match=r"3 heads .* 2 groups; take"):
      function(*arrays[:5])
  with pytest.raises(errors.UserError, match="a chunk of 0 tokens; take"):
    nn.ssd(*_arrays(1, 4, 2, 2)[:5], chunk=0)
  with pytest.raises(errors.UserError, match=r"3 groups .* 8 features"):
    nn.GatedRMSNorm(8, groups=3)
