"""Updates against numpy, weight decay in both modes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jbin import optimizers, schedules

STEPS = 5


def _run(optimizer, params, grads):
  state = optimizer.init(params)
  for step in range(STEPS):
    now = schedules.progress_at(step, STEPS)
    params, state, rate = optimizer.update(grads[step], state, params, now)
  return params, rate


def _problem():
  rng = np.random.default_rng(0)
  params = {"w": rng.normal(size=(3, 4)), "b": rng.normal(size=4)}
  grads = [
    {k: rng.normal(size=v.shape) for k, v in params.items()}
    for _ in range(STEPS)
  ]
  cast = lambda tree: jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)
  return params, grads, cast(params), [cast(g) for g in grads]


@pytest.mark.parametrize("mode", ["l2", "decoupled"])
def test_adam_with_decay_equals_numpy(mode):
  params, grads, w, g = _problem()
  rate = schedules.linear(6.4e-4, 0.0, until=750 / 800)
  made = optimizers.build(optimizers.adam(b2=0.99), rate, 5e-2, mode)
  got, _ = _run(made, w, g)
  m = dict.fromkeys(params, 0.0)
  v = dict.fromkeys(params, 0.0)
  for step in range(STEPS):
    lr = 6.4e-4 * max(1 - step / (STEPS * 750 / 800), 0)
    for k in params:
      decay = 5e-2 * params[k] if k == "w" else 0.0
      grad = grads[step][k] + (decay if mode == "l2" else 0.0)
      m[k] = 0.9 * m[k] + 0.1 * grad
      v[k] = 0.99 * v[k] + 0.01 * grad**2
      mean, var = (
        m[k] / (1 - 0.9 ** (step + 1)),
        v[k] / (1 - 0.99 ** (step + 1)),
      )
      update = mean / (np.sqrt(var) + 1e-8)
      params[k] = params[k] - lr * (
        update + (decay if mode == "decoupled" else 0.0)
      )
  for k in params:
    np.testing.assert_allclose(got[k], params[k], rtol=2e-6, atol=2e-7)


def test_sgd_is_optax_nesterov():
  _, _, w, g = _problem()
  got, rate = _run(
    optimizers.build(optimizers.sgd(0.9, nesterov=True), 0.1), w, g
  )
  tx = optax.sgd(0.1, 0.9, nesterov=True)
  state = tx.init(w)
  for step in range(STEPS):
    updates, state = tx.update(g[step], state)
    w = optax.apply_updates(w, updates)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got, w)
  assert float(rate) == np.float32(0.1)


def test_clipping_bounds_the_global_norm():
  _, _, w, g = _problem()
  made = optimizers.build(optimizers.sgd(), 1.0, clip_norm=0.5)
  new, _, _ = made.update(g[0], made.init(w), w, 0.0)
  moved = optax.tree.norm(jax.tree.map(jnp.subtract, new, w))
  np.testing.assert_allclose(moved, 0.5, rtol=1e-5)


def test_the_last_epochs_of_pokebnn_stand_still():
  rate = schedules.linear(6.4e-4, 0.0, until=750 / 800)
  made = optimizers.build(optimizers.adam(), rate)
  w = {"w": jnp.ones((2, 2))}
  for step in (750 * 156, 800 * 156 - 1):
    now = schedules.progress_at(step, 800 * 156)
    new, _, lr = made.update({"w": jnp.ones((2, 2))}, made.init(w), w, now)
    assert float(lr) == 0.0
    assert (new["w"] == w["w"]).all()


def test_flips_take_no_rate_and_no_decay():
  """Beside adam, which has both; the norm that clips is that of all."""
  _, _, w, g = _problem()
  flipped = {"w": True, "b": False}
  for mode in ("l2", "decoupled"):
    made = optimizers.build(
      optimizers.adam(),
      0.1,
      weight_decay=0.5,
      weight_decay_mode=mode,
      decay=lambda params: jax.tree.map(lambda _: True, params),
      flips=optimizers.bop(0.0, 1.0, flipped),
      flipped=flipped,
    )
    got, _ = _run(made, w, g)
    alone = optimizers.build(
      optimizers.adam(),
      0.1,
      weight_decay=0.5,
      weight_decay_mode=mode,
      decay=lambda params: jax.tree.map(lambda _: True, params),
    )
    rest = [{"b": each["b"]} for each in g]
    want, _ = _run(alone, {"b": w["b"]}, rest)
    np.testing.assert_array_equal(got["b"], want["b"])
    # m is the last gradient, and a weight that agrees with it has flipped.
    np.testing.assert_array_equal(got["w"], -np.sign(g[-1]["w"]))


def test_the_last_part_sees_what_the_others_did():
  _, _, w, g = _problem()
  made = optimizers.build(
    optimizers.sgd(), 10.0, after=[optimizers.clip_latents(0.25)]
  )
  new, _, _ = made.update(g[0], made.init(w), w, 0.0)
  plain = optimizers.build(optimizers.sgd(), 10.0)
  free, _, _ = plain.update(g[0], plain.init(w), w, 0.0)
  want = jax.tree.map(lambda x: jnp.clip(x, -0.25, 0.25), free)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=3e-8), new, want
  )
