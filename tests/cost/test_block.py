"""A real block, PokeBNN's bottleneck: wrappers change no figure."""

import functools

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from jbin import cost
from jbin.models import _pokebnn as poke

SHAPE = (1, 8, 8, 32)
X = jax.ShapeDtypeStruct(SHAPE, jnp.float32)


def make_block():
  return poke.Bottleneck(32, 8, 1, recipe=poke.Recipe(), rngs=nnx.Rngs(0))


def figures(report):
  return (report.ace, report.ace_strict, report.macs, report.elementwise)


@pytest.fixture(scope="module")
def block():
  model = nnx.eval_shape(make_block)
  model = nnx.view(model, use_running_average=True)
  graphdef, state = nnx.split(model)
  return graphdef, state


def run(graphdef, state, x):
  return nnx.merge(graphdef, state)(x)


WRAPPERS = {
  "nothing": lambda f: f,
  "no-op": functools.partial,
  "jit": jax.jit,
  "remat": jax.checkpoint,
  "jit of remat": lambda f: jax.jit(jax.checkpoint(f)),
  "scan of one": lambda f: (
    lambda x: jax.lax.scan(lambda x, _: (f(x), None), x, None, length=1)[0]
  ),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_wrapper_changes_no_figure(name, block):
  graphdef, state = block

  def wrapped(state, x):
    return WRAPPERS[name](lambda x: run(graphdef, state, x))(x)

  plain = cost.count(lambda s, x: run(graphdef, s, x), state, X, weights=0)
  assert figures(cost.count(wrapped, state, X, weights=0)) == figures(plain)
  assert plain.macs[1, 1] == 64 * (32 * 8 + 9 * 8 * 8 + 8 * 32)


def test_scan_over_stacked_blocks_counts_each(block):
  graphdef, state = block
  depth = 5
  stacked = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((depth, *x.shape), x.dtype), state
  )

  def deep(stacked, x):
    def body(x, state):
      return run(graphdef, state, x), None

    return jax.lax.scan(body, x, stacked)[0]

  one = cost.count(lambda s, x: run(graphdef, s, x), state, X, weights=0)
  many = cost.count(deep, stacked, X, weights=0)
  assert many.ace == depth * one.ace
  assert many.ace_strict == depth * one.ace_strict
  assert many.elementwise == {k: depth * v for k, v in one.elementwise.items()}


def test_contracted_scales_are_flagged(block):
  graphdef, state = block
  report = cost.count(lambda s, x: run(graphdef, s, x), state, X, weights=0)
  assert report.flagged
  assert all("se" in name for name in report.flagged)
  assert report.ace_strict > report.ace
