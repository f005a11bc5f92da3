"""BertAdam: its formula, and what one parameter is in a stack of layers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jbin
from jbin import nn, optimizers, quantizers, schedules
from tests import programs

STEPS = 4


def _formula(grads, b1=0.9, b2=0.999, eps=1e-6, most=1.0):
  """The directions of one parameter, in float64."""
  m = v = 0.0
  for g in grads:
    g = np.asarray(g, np.float64)
    if most:
      g = g * min(1.0, most / (np.linalg.norm(g.ravel()) + 1e-6))
    m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
    yield m / (np.sqrt(v) + eps)


def _grads(shape, seed=0, size=1.0):
  rng = np.random.default_rng(seed)
  make = lambda: jnp.asarray(size * rng.normal(size=shape), jnp.float32)
  return [make() for _ in range(STEPS)]


def _run(tx, params, grads):
  state, found = tx.init(params), []
  step = programs.Jit(tx.update)
  for g in grads:
    updates, state = step(g, state)
    found.append(updates)
  assert step.traces == 1
  return found, state


@pytest.mark.parametrize(
  "options",
  [{}, {"b1": 0.5, "b2": 0.9, "eps": 1e-3}, {"clip_norm": 0.0}],
  ids=str,
)
@pytest.mark.parametrize("size", [1e-3, 10.0])
def test_directions_are_the_formulas(options, size):
  shapes = {"w": (3, 4), "b": (5,), "s": ()}
  trees = {n: _grads(s, len(s), size) for n, s in shapes.items()}
  grads = [{n: trees[n][t] for n in shapes} for t in range(STEPS)]
  found, _ = _run(optimizers.bert_adam(**options), grads[0], grads)
  most = {"most": options.pop("clip_norm")} if "clip_norm" in options else {}
  for n in shapes:
    for t, want in enumerate(_formula(trees[n], **options, **most)):
      np.testing.assert_allclose(found[t][n], want, rtol=1e-5, atol=1e-7)


def test_extremes_are_finite():
  g = [{"w": jnp.asarray(x, jnp.float32)} for x in ([0.0, 0.0], [1e30, -1e30])]
  found, state = _run(optimizers.bert_adam(), g[0], g)
  for leaf in jax.tree.leaves((found, state)):
    assert np.isfinite(leaf).all()


def test_moments_of_half_precision_are_float32():
  params = {"w": jnp.ones((2, 3), jnp.bfloat16)}
  made = optimizers.build(optimizers.bert_adam(), 0.1, 0.01)
  state = made.init(params)
  grads = jax.tree.map(jnp.ones_like, params)
  new, state, _ = jax.jit(made.update)(grads, state, params, 0.0)
  assert new["w"].dtype == jnp.bfloat16
  assert {x.dtype for x in jax.tree.leaves(state)} == {jnp.dtype("float32")}


class Net(nnx.Module):
  """A stack, a stack of stacks, and a layer beside them."""

  def __init__(self, rngs):
    make = functools.partial(nnx.Linear, 3, 4)
    self.layers = nn.stack(lambda rngs: make(rngs=rngs), 2, rngs)
    self.grid = nn.stack(
      lambda rngs: nn.stack(lambda rngs: make(rngs=rngs), 2, rngs), 3, rngs
    )
    self.alone = make(rngs=rngs)


def _low(rngs):
  elastic = quantizers.bit_activation(shift=True)
  rule = jbin.Rule(input_quantizer=elastic, kernel_quantizer=quantizers.xnor())
  return jbin.quantize(Net(rngs), rule)


def _axes(tree):
  return {
    "/".join(map(str, path)): nn.stack_axes(variable)
    for path, variable in nnx.to_flat_state(tree)
  }


def test_parameters_of_stacks_say_so():
  low = _low(nnx.Rngs(0))
  _, params, _ = nnx.split(low, nnx.Param, ...)
  for path, axes in _axes(params).items():
    assert axes == {"layers": 1, "grid": 2, "alone": 0}[path.split("/")[0]]
  assert any("learned" in path for path in _axes(params))
  abstract = nnx.eval_shape(lambda: _low(nnx.Rngs(0)))
  assert _axes(nnx.state(abstract, nnx.Param)) == _axes(params)
  assert _axes(jax.tree.map(jnp.ones_like, params)) == _axes(params)
  for member in nn.members(low.layers):
    assert set(_axes(nnx.state(member, nnx.Param)).values()) == {0}
  (row, *_) = nn.members(low.grid)
  assert set(_axes(nnx.state(row, nnx.Param)).values()) == {1}
  assert nn.stack_axes(jnp.ones(3)) == 0


@pytest.fixture
def as_users_compile():
  """Rounding as of a program that LLVM optimizes in full."""
  before = jax.config.read("jax_disable_most_optimizations")
  jax.config.update("jax_disable_most_optimizations", False)
  yield
  jax.config.update("jax_disable_most_optimizations", before)


@pytest.mark.usefixtures("as_users_compile")
def test_each_layer_of_a_stack_is_clipped_by_itself():
  params = nnx.state(Net(nnx.Rngs(0)), nnx.Param)
  rng = np.random.default_rng(0)
  draw = lambda w: jnp.asarray(3 * rng.normal(size=w.shape), jnp.float32)
  grads = [jax.tree.map(draw, params) for _ in range(STEPS)]
  found, _ = _run(optimizers.bert_adam(), params, grads)
  shape = {"layers": (2,), "grid": (3, 2), "alone": ()}
  for path, _ in nnx.to_flat_state(params):
    of = lambda tree, path=path: np.asarray(
      functools.reduce(lambda part, name: part[name], path, tree)[...]
    )
    for index in np.ndindex(shape[path[0]]):
      wants = _formula([of(g)[index] for g in grads])
      for t, want in enumerate(wants):
        np.testing.assert_allclose(of(found[t])[index], want, rtol=1e-5)


def test_under_a_mask_and_with_the_rest_of_the_house():
  """As `build` has it beside an optimizer of latents."""
  params = nnx.state(Net(nnx.Rngs(0)), nnx.Param)
  grads = jax.tree.map(lambda w: 2 * jnp.ones_like(w), params)
  mask = jax.tree.map(lambda w: w.ndim > 2, params)
  tx = optax.masked(optimizers.bert_adam(), mask)
  updates, _ = tx.update(grads, tx.init(params), params)
  whole, _ = optimizers.bert_adam().update(
    grads, optimizers.bert_adam().init(params)
  )
  want = jax.tree.map(lambda here, a, b: a if here else b, mask, whole, grads)
  jax.tree.map(np.testing.assert_array_equal, updates, want)
  made = optimizers.build(
    optimizers.bert_adam(), schedules.warmup_linear(1e-3), 0.01
  )
  new, _, rate = made.update(grads, made.init(params), params, 0.05)
  assert float(rate) == pytest.approx(5e-4)
  jax.tree.map(np.testing.assert_array_less, new, params)
