"""What every transformation owes: one row each.

jit, bfloat16, masks, sharding, stacks, a state that is a plain pytree, and
nothing that recompiles.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec as P

from jbin import errors, optimizers, quantizers, schedules
from jbin.train import sharding
from tests import programs

STEPS = 4


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
  """One transformation with its options.

  Attributes:
    make: mask -> transformation.
    target: (w, w + u, g, progress, all g so far) -> the parameter after, in
      numpy; None: what optax's own tests hold.
    whole: whether it replaces the update (Bop) rather than bend it.
    statistics: whether it looks at a layer as a whole.
  """

  make: Callable[[Any], optax.GradientTransformation]
  target: Callable[..., np.ndarray]
  whole: bool = False
  statistics: bool = False


def _bop(gamma, least):
  def target(w, there, grads, progress):
    m = np.float32(0)
    for t, g in enumerate(grads):
      now = gamma(t / STEPS) if callable(gamma) else gamma
      m = m + np.float32(now) * (g - m)
    sign = np.where(w < 0, -1, 1)
    return np.where((np.abs(w) == 1) & (sign * m > least), -sign, sign)

  return target


def _prox(kind, reg):
  operator = getattr(optimizers, f"prox_{kind}")

  def target(w, there, grads, progress):
    soft = np.asarray(operator(jnp.asarray(there), reg * progress))
    return np.clip(soft, -1, 1)

  return target


def _frozen(w, there, grads, progress):
  if progress >= 0.5:
    return np.where(w < 0, -1, 1)
  return _prox("binary", 0.4)(w, there, grads, progress)


def _shrink(w, there, grads, progress):
  percent = 15 * (1 - progress)
  return np.asarray(quantizers.shrink_latents(jnp.asarray(there), percent))


GROWING = schedules.linear(0.0, 0.4)
HALF = schedules.piecewise([0.5], [0.5, 0.05])
ROWS = {
  "bop": Row(
    lambda mask: optimizers.bop(0.1, 0.5, mask), _bop(0.5, 0.1), whole=True
  ),
  "bop, schedules": Row(
    lambda mask: optimizers.bop(schedules.constant(0.1), HALF, mask),
    _bop(lambda p: 0.5 if p < 0.5 else 0.05, 0.1),
    whole=True,
  ),
  "clip": Row(
    lambda mask: optimizers.clip_latents(0.5, mask),
    lambda w, there, grads, progress: np.clip(there, -0.5, 0.5),
  ),
  "clip, schedule": Row(
    lambda mask: optimizers.clip_latents(schedules.linear(1.0, 0.3), mask),
    lambda w, there, grads, progress: np.clip(
      there, -1 + 0.7 * progress, 1 - 0.7 * progress
    ),
  ),
  "shrink": Row(
    lambda mask: optimizers.shrink_latents(mask=mask), _shrink, statistics=True
  ),
  "proxquant": Row(
    lambda mask: optimizers.proxquant(strength=GROWING, freeze=0.5, mask=mask),
    _frozen,
  ),
  "proxquant, ternary": Row(
    lambda mask: optimizers.proxquant("ternary", GROWING, freeze=2, mask=mask),
    _prox("ternary", 0.4),
    statistics=True,
  ),
  "proxquant, median": Row(
    lambda mask: optimizers.proxquant(
      "median", 4.0, freeze=2, learning_rate=schedules.linear(0, 0.1), mask=mask
    ),
    _prox("median", 0.4),
    statistics=True,
  ),
}
every_row = pytest.mark.parametrize(
  "row", [pytest.param(row, id=name) for name, row in ROWS.items()]
)


def _problem(shape=(6, 8), dtype=jnp.float32, seed=0):
  rng = np.random.default_rng(seed)
  cast = lambda x: jnp.asarray(np.asarray(x, np.float32), dtype)
  params = {
    "kernel": cast(rng.normal(0, 0.6, shape)),
    "other": {"bias": cast(rng.normal(size=8))},
  }
  grads = [
    jax.tree.map(lambda w: cast(rng.normal(0, 1, w.shape)), params)
    for _ in range(STEPS)
  ]
  return params, grads


KERNEL = {"kernel": True, "other": False}


def _step(tx, row, params, state, g, progress):
  """One step of descent by 0.3, then the row; a Bop takes the gradient."""
  updates = g if row.whole else jax.tree.map(lambda x: -0.3 * x, g)
  updates, state = tx.update(updates, state, params, progress=progress)
  return optax.apply_updates(params, updates), state


def _run(row, tx, params, grads, once=True):
  state = tx.init(params)
  step = programs.Jit(functools.partial(_step, tx, row))
  trail = [params]
  for t, g in enumerate(grads):
    params, state = step(params, state, g, schedules.progress_at(t, STEPS))
    trail.append(params)
  assert step.traces == 1 or not once
  return trail, state


@every_row
def test_parameters_end_where_the_formula_says(row):
  params, grads = _problem()
  trail, _ = _run(row, row.make(KERNEL), params, grads)
  for t, (old, new) in enumerate(itertools.pairwise(trail)):
    w = np.asarray(old["kernel"])
    there = w - np.float32(0.3) * np.asarray(grads[t]["kernel"])
    seen = [np.asarray(g["kernel"]) for g in grads[: t + 1]]
    want = row.target(w, there, seen, t / STEPS)
    np.testing.assert_allclose(new["kernel"], want, rtol=2e-6, atol=2e-7)


@every_row
def test_a_mask_leaves_the_others_alone(row):
  params, grads = _problem()
  tx = row.make(KERNEL)
  sent = grads[0]
  updates, state = tx.update(sent, tx.init(params), params, progress=0.5)
  assert updates["other"]["bias"] is sent["other"]["bias"]
  shapes = {x.shape for x in jax.tree.leaves(state)}
  assert shapes <= {(), (6, 8)}
  # Masks by a function, by the upper part of a tree, and by optax.
  trees = [
    row.make(lambda tree: jax.tree.map(lambda w: w.ndim > 1, tree)),
    row.make({"kernel": optimizers.Latent(), "other": {"bias": False}}),
    optax.masked(row.make(None), {"kernel": True, "other": {"bias": False}}),
  ]
  for other in trees:
    same, _ = other.update(sent, other.init(params), params, progress=0.5)
    jax.tree.map(np.testing.assert_array_equal, same, updates)


@every_row
def test_a_chain_of_optax_hands_progress_on(row):
  params, grads = _problem()
  if row.whole:
    tx = optax.chain(optax.identity(), row.make(KERNEL))
  else:
    tx = optax.chain(optax.scale(-0.3), row.make(KERNEL))
  state = tx.init(params)
  updates, _ = tx.update(grads[0], state, params, progress=0.25)
  alone = row.make(KERNEL)
  new, _ = _step(alone, row, params, alone.init(params), grads[0], 0.25)
  chained = optax.apply_updates(params, updates)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7),
    chained,
    new,
  )


@every_row
def test_bfloat16_parameters_end_as_rounded_ones(row):
  params, grads = _problem(dtype=jnp.bfloat16)
  trail, state = _run(row, row.make(KERNEL), params, grads)
  assert all(x.dtype != jnp.bfloat16 for x in jax.tree.leaves(state))
  for t, (old, new) in enumerate(itertools.pairwise(trail)):
    assert new["kernel"].dtype == jnp.bfloat16
    w = np.asarray(old["kernel"], np.float32)
    u = -0.3 * grads[t]["kernel"]
    there = np.asarray((old["kernel"] + u), np.float32)
    seen = [np.asarray(g["kernel"], np.float32) for g in grads[: t + 1]]
    want = row.target(w, there, seen, t / STEPS)
    got = np.asarray(new["kernel"], np.float32)
    np.testing.assert_allclose(got, want, rtol=2**-7, atol=2**-8)


@every_row
def test_sharded_parameters_give_the_same(row):
  params, grads = _problem((16, 128))
  where = NamedSharding(sharding.make_mesh(2, 4), P(None, "fsdp"))
  tx = row.make(KERNEL)
  want, kept = _run(row, tx, params, grads)
  place = lambda tree: {**tree, "kernel": jax.device_put(tree["kernel"], where)}
  # Here, not in the loop, XLA may choose where results lie: a trace more.
  sent = [place(g) for g in grads]
  got, state = _run(row, tx, place(params), sent, once=False)
  assert got[-1]["kernel"].sharding.is_equivalent_to(where, 2)
  close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
  jax.tree.map(close, got[-1], want[-1])
  jax.tree.map(close, state, kept)


@every_row
def test_going_on_from_a_saved_state_is_exact(row):
  params, grads = _problem()
  tx = row.make(KERNEL)
  step = jax.jit(functools.partial(_step, tx, row))
  saved, state = None, tx.init(params)
  for t, g in enumerate(grads):
    if t == 2:  # as a checkpoint has it: leaves by name
      names = sharding.path_names((params, state))
      leaves = [np.array(x) for x in jax.tree.leaves((params, state))]
      assert len(set(names)) == len(leaves)
      saved = leaves
    params, state = step(params, state, g, schedules.progress_at(t, STEPS))
  tree = jax.tree.structure((params, tx.init(params)))
  again, kept = tree.unflatten(map(jnp.asarray, saved))
  for t in (2, 3):
    now = schedules.progress_at(t, STEPS)
    again, kept = step(again, kept, grads[t], now)
  jax.tree.map(np.testing.assert_array_equal, (again, kept), (params, state))


@every_row
def test_a_stack_is_as_its_layers(row):
  params, grads = _problem((3, 2, 5, 8))
  stacked = {"kernel": optimizers.Latent(stack=2), "other": False}
  trail, _ = _run(row, row.make(stacked), params, grads)
  one = lambda tree, i, j: {"kernel": tree["kernel"][i, j]}
  for i, j in np.ndindex(3, 2):
    alone, _ = _run(
      row,
      row.make(None),
      one(params, i, j),
      [one(g, i, j) for g in grads],
    )
    np.testing.assert_allclose(
      trail[-1]["kernel"][i, j], alone[-1]["kernel"], rtol=1e-6, atol=1e-7
    )


@every_row
def test_a_layout_is_put_back(row):
  """A kernel that is stored turned gives what its quantizer's view does."""
  params, grads = _problem((4, 3, 7))
  turn = _turned
  mask = {"kernel": optimizers.Latent(layout=turn), "other": False}
  trail, _ = _run(row, row.make(mask), params, grads)
  turned = lambda tree: {**tree, "kernel": turn(tree["kernel"])}
  want, _ = _run(
    row, row.make(KERNEL), turned(params), [turned(g) for g in grads]
  )
  np.testing.assert_allclose(
    turn(trail[-1]["kernel"]), want[-1]["kernel"], rtol=1e-6, atol=1e-7
  )


def _turned(w):
  return jnp.moveaxis(w, 0, -1).reshape(-1, w.shape[0])


@every_row
def test_without_parameters_is_a_clear_error(row):
  params, grads = _problem()
  tx = row.make(None)
  with pytest.raises(errors.UserError, match=r"tx\.update\(grads, state, par"):
    tx.update(grads[0], tx.init(params), progress=0.0)


def test_every_registered_transformation_has_a_row():
  rows = {name.split(",")[0] for name in ROWS}
  assert {
    name for name in optimizers.REGISTRY if optimizers.role(name) != "direction"
  } <= rows
