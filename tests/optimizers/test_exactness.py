"""Where weights end, to the last bit: sums of floats are rounded."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings, strategies as st

from jbin import errors, optimizers, schedules

LIMITS = (1.0, 0.5, 0.3, 1 / 3, 1.7)
inside = st.floats(-1, 1, width=32)


def _apply(tx, w, u, **extra):
  state = tx.init(w)

  @jax.jit
  def step(w, u, state):
    updates, state = tx.update(u, state, w, **extra)
    return optax.apply_updates(w, updates), state

  return step(w, u, state)[0]


@pytest.mark.parametrize("limit", LIMITS)
@settings(max_examples=30, deadline=None)
@given(
  st.lists(inside, min_size=8, max_size=8),
  st.lists(st.floats(-3, 3, width=32), min_size=8, max_size=8),
)
def test_a_clipped_weight_is_never_outside(limit, starts, steps):
  limit = np.float32(limit)
  w = limit * jnp.asarray(starts, jnp.float32)
  u = jnp.asarray(steps, jnp.float32)
  end = np.asarray(_apply(optimizers.clip_latents(float(limit)), w, u))
  free = np.asarray(w + u)
  assert (np.abs(end) <= limit).all()
  np.testing.assert_array_equal(
    end[np.abs(free) < limit], free[np.abs(free) < limit]
  )
  stopped = np.abs(end[np.abs(free) >= limit])
  assert (stopped >= np.nextafter(limit, np.float32(0))).all()


def test_most_ends_are_the_limit_and_the_next_step_s_all_are():
  rng = np.random.default_rng(0)
  w = jnp.asarray(rng.uniform(-1, 1, 10_000), jnp.float32)
  u = jnp.asarray(rng.choice([-3, 3], 10_000), jnp.float32)
  tx = optimizers.clip_latents(1.0)
  once = _apply(tx, w, u)
  assert (jnp.abs(once) == 1).mean() > 0.7
  pushed = jnp.where(once > 0, 3.0, -3.0)
  np.testing.assert_array_equal(jnp.abs(_apply(tx, once, pushed)), 1)


@pytest.mark.parametrize("limit", LIMITS)
def test_what_begins_far_outside_arrives_at_the_second_step(limit):
  w = jnp.asarray([1e3, -777.7, 42.0, -1e-30], jnp.float32)
  tx = optimizers.clip_latents(limit)
  push = jnp.asarray([1.0, -1.0, 1.0, -2.0])
  end = np.asarray(_apply(tx, _apply(tx, w, push), push))
  np.testing.assert_array_equal(
    end, np.float32(limit) * np.sign(np.asarray(push))
  )


def test_bfloat16_ends_at_the_limit():
  rng = np.random.default_rng(0)
  w = jnp.asarray(rng.uniform(-1, 1, 1000), jnp.bfloat16)
  u = jnp.asarray(rng.choice([-3, 3], 1000), jnp.bfloat16)
  end = _apply(optimizers.clip_latents(1.0), w, u)
  np.testing.assert_array_equal(end, jnp.sign(u))


def test_weights_of_one_bit_stay_so_exactly():
  rng = np.random.default_rng(0)
  w = jnp.asarray(rng.normal(size=500), jnp.float32).at[0].set(0.0)
  first = w
  tx = optimizers.bop(0.01, 0.5)
  state = tx.init(w)
  flips = 0
  for t in range(20):
    g = jnp.asarray(rng.normal(size=500), jnp.float32)
    updates, state = tx.update(g, state, w)
    new = optax.apply_updates(w, updates)
    # The first step makes them so, but for rounding, the second rounds back.
    np.testing.assert_allclose(jnp.abs(new), 1, rtol=0 if t else 1e-6)
    flips += int((jnp.sign(new) != jnp.sign(w)).sum())
    w = new
  assert flips > 1000
  still = tx.update(jnp.zeros(500), tx.init(first), first)[0]
  np.testing.assert_allclose(
    first + still, jnp.where(first < 0, -1, 1), rtol=1e-6
  )


def test_a_tie_keeps_the_weight():
  w = jnp.asarray([1.0, 1.0, -1.0, 1.0])
  g = jnp.asarray([0.25, np.nextafter(np.float32(0.25), 1), -0.25, 0.0])
  end = _apply(optimizers.bop(0.25, 1.0), w, g)
  np.testing.assert_array_equal(end, [1.0, -1.0, -1.0, 1.0])
  # At threshold 0 a gradient of 0 is a tie.
  end = _apply(optimizers.bop(0.0, 1.0), w, jnp.zeros(4))
  np.testing.assert_array_equal(end, w)


@pytest.mark.parametrize("kind", ["binary", "ternary", "median"])
def test_frozen_weights_have_their_levels_and_keep_them(kind):
  rng = np.random.default_rng(0)
  # Levels that a second rounding of the whole would move.
  w = jnp.asarray(rng.normal(0.05, 0.2, 600).clip(-0.1, 1), jnp.float32)
  tx = optimizers.proxquant(kind, 0.0, freeze=0.5)
  state = tx.init(w)
  update = jax.jit(tx.update)
  trail = []
  for progress in (0.5, 0.6, 0.7, 0.8, 1.0):
    updates, state = update(
      jnp.full_like(w, 0.3), state, w, progress=jnp.float32(progress)
    )
    w = optax.apply_updates(w, updates)
    trail.append(np.asarray(w))
  assert bool(state.frozen)
  for later in trail[2:]:
    np.testing.assert_array_equal(later, trail[1])
  np.testing.assert_allclose(trail[0], trail[1], rtol=1e-6, atol=1e-7)
  levels = np.unique(trail[-1])
  assert len(levels) == (3 if kind == "ternary" else 2)
  if kind == "binary":
    np.testing.assert_array_equal(levels, [-1, 1])


def test_a_pull_that_is_strong_enough_arrives():
  w = jnp.asarray([0.9, -1.3, 0.2, 0.0, -0.4])
  for reg in (0.5, 5.0):
    end = optimizers.prox_binary(w, reg)
    want = np.sign(w) * np.where(np.abs(np.abs(w) - 1) <= reg, 1, np.nan)
    told = ~np.isnan(want)
    np.testing.assert_array_equal(end[told], want[told])
  same = optimizers.prox_binary(w, 0.0)
  np.testing.assert_allclose(same, w, atol=1e-7)
  np.testing.assert_allclose(
    optimizers.prox_ternary(w, 1e6), optimizers.ternarize(w), atol=1e-5
  )
  np.testing.assert_allclose(jnp.abs(optimizers.prox_median(w, 9.0)), 0.4)


@pytest.mark.parametrize(
  "function",
  [
    lambda w: optimizers.prox_binary(w, 0.1),
    lambda w: optimizers.prox_ternary(w, 0.1),
    lambda w: optimizers.prox_median(w, 0.1),
    optimizers.ternarize,
  ],
)
def test_operators_make_no_nan_and_keep_the_dtype(function):
  for dtype in (jnp.float32, jnp.bfloat16):
    for fill in (0.0, 1.0, -1.0, 1e-30, 1e4):
      got = function(jnp.full((3, 4), fill, dtype))
      assert got.dtype == dtype
      assert jnp.isfinite(got).all()


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: optimizers.proxquant("binry"), "did you mean binary"),
    (lambda: optimizers.proxquant(clip=-1), "clip is -1; it must be 0 or"),
    (lambda: optimizers.ternarize(jnp.ones(2), "median"), "unknown delta"),
    (lambda: optimizers.role("bopp"), "did you mean bop"),
    (
      lambda: _apply(
        optimizers.bop(gamma=schedules.linear(1e-4, 0)),
        jnp.ones(2),
        jnp.ones(2),
      ),
      "needs a progress",
    ),
  ],
)
def test_what_is_wrong_is_said(make, message):
  with pytest.raises(errors.UserError, match=message):
    make()
