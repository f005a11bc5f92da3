"""Larq's Bop and ProxQuant's operators against their vectors."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jbin import optimizers, regularizers
from tests.golden.compare import Reader, Vectors
from tests.golden.estimators_steps import cases


def larq_bop(vectors: Vectors):
  """Weights after each update are exact, m to rounding."""
  z = Reader(vectors)
  heads = {key.split("_")[0]: None for key in z}
  assert heads
  for head in heads:
    threshold, gamma = map(float, z[f"{head}_threshold_gamma"])
    tx = optimizers.bop(threshold, gamma)
    grads, weights, m = (
      z[f"{head}_{key}"] for key in ("grads", "weights", "m")
    )
    w = jnp.asarray(weights[0])
    state = tx.init(w)
    step = jax.jit(functools.partial(_step, tx))
    np.testing.assert_array_equal(state.m, m[0])
    for t, g in enumerate(grads):
      w, state = step(g, state, w)
      np.testing.assert_array_equal(w, weights[t + 1])
      np.testing.assert_allclose(state.m, m[t + 1], rtol=1e-6, atol=1e-12)
  z.all_read()


def _step(tx, g, state, w):
  updates, state = tx.update(g, state, w)
  return optax.apply_updates(w, updates), state


OPERATORS = {
  "binary": optimizers.prox_binary,
  "ternary": optimizers.prox_ternary,
  "median": optimizers.prox_median,
}


def proxquant(vectors: Vectors):
  """The operators, as functions and as the update of a step that is 0."""
  z = Reader(vectors)
  w = jnp.asarray(z["w"])
  for case in cases(z, r"prox_([a-z]+)_reg([\d.e-]+)"):
    kind, reg = case[1], float(case[2])
    # What the code draws for the sign of 0 is not compared.
    told = w != 0 if kind == "median" else np.ones(w.shape, bool)
    want = np.where(told, z[case[0]], 0)
    got = jax.jit(OPERATORS[kind])(w, reg)
    _same(jnp.where(told, got, 0), want)
    tx = optimizers.proxquant(kind, reg, clip=0, freeze=2)
    done, _ = _step(tx, jnp.zeros_like(w), tx.init(w), w)
    _same(jnp.where(told, done, 0), want)
  for key in [key for key in z if re.fullmatch("ternarize_(mean|max)", key)]:
    _same(optimizers.ternarize(w, key.split("_")[1]), z[key])
  _same(regularizers.proxquant([w]), z["binary_reg_value"])
  z.all_read()


def _same(got, want):
  np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
