"""What a model shares between its parts stays shared, random streams too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jbin
from jbin import errors, nn, quantizers as q
from tests.convert.others import MODELS

EIGHT = {"kernel_quantizer": q.absmax(8)}


class Noisy(nnx.Module):
  """Draws from streams that all its siblings draw from."""

  def __init__(self, rngs):
    self.linear = nnx.Linear(4, 4, rngs=rngs)
    self.rngs = rngs

  def __call__(self, x):
    noise = self.rngs.dropout.normal(x.shape)
    return self.linear(x), noise


class Net(nnx.Module):
  """Blocks on one `nnx.Rngs`, one dropout in two places."""

  def __init__(self, rngs):
    self.blocks = nnx.List([Noisy(rngs) for _ in range(3)])
    self.dropout = nnx.Dropout(0.5, rngs=rngs)
    self.again = self.dropout
    self.other = nnx.Dropout(0.5, rngs=rngs)

  def __call__(self, x):
    noises = []
    for block in self.blocks:
      x, noise = block(x)
      noises.append(noise)
    one = jnp.ones_like(x)
    drops = [drop(one) for drop in (self.dropout, self.again, self.other)]
    return x, jnp.stack(noises + drops)


def _made():
  return Net(nnx.Rngs(params=0, dropout=1))


@pytest.mark.parametrize("back", [False, True], ids=["there", "and back"])
def test_draws_are_those_of_the_float_model(back):
  x = jnp.ones((2, 4))
  low = jbin.quantize(_made(), jbin.Rule("blocks/1/linear", **EIGHT), x)
  if back:
    low = jbin.dequantize(low)
  assert low.again is low.dropout
  assert low.blocks[0].rngs is low.blocks[2].rngs
  model = _made()
  for _ in range(2):  # the second call goes on where the first one ended
    want, got = model(x)[1], low(x)[1]
    np.testing.assert_array_equal(got, want)
  assert len({np.asarray(part).tobytes() for part in want}) == 6


def test_the_two_models_draw_each_for_themselves():
  x, model = jnp.ones((2, 4)), _made()
  low = jbin.quantize(model, jbin.Rule("blocks/1/linear", **EIGHT), x)
  first = low(x)[1]
  np.testing.assert_array_equal(model(x)[1], first)


def test_it_trains_in_one_compiled_step():
  low = jbin.quantize(_made(), jbin.Rule(**EIGHT), jnp.ones((2, 4)))
  graph, state = nnx.split(low)

  @jax.jit
  def step(state, x):
    now = nnx.merge(graph, state)
    return now(x)[1], nnx.state(now)

  first, state = step(state, jnp.ones((2, 4)))
  second, _ = step(state, jnp.ones((2, 4)))
  assert (np.asarray(first) != np.asarray(second)).any()


@pytest.mark.parametrize("name", MODELS)
def test_dequantize_gives_the_structure_back(name):
  """Not a variable, attribute or class more or less."""
  make, x = MODELS[name]
  model = make(nnx.Rngs(params=0, dropout=1))
  rules = [jbin.Rule(optional=True, type="Embed"), jbin.Rule(**EIGHT)]
  again = jbin.dequantize(jbin.quantize(model, rules, x))
  assert jax.tree.structure(again) == jax.tree.structure(model)
  assert nnx.graphdef(again) == nnx.graphdef(model)


def test_a_quantizer_that_would_be_left_is_an_error():
  class Own(nnx.Module):
    def __init__(self, rngs):
      self.linear = nn.Linear(4, 4, kernel_quantizer=q.sign(), rngs=rngs)
      self.mine = nn.Quantizer(q.sign(), 4)

  with pytest.raises(errors.UserError, match="'mine' is a quantizer of a mod"):
    jbin.dequantize(Own(nnx.Rngs(0)))


def test_a_module_that_is_no_tree_is_refused():
  class Old(nnx.Module, pytree=False):
    def __init__(self, rngs):
      self.linear = nnx.Linear(4, 4, rngs=rngs)

  class Net(nnx.Module):
    def __init__(self, rngs):
      self.old = Old(rngs)

  for model, where in (
    (Net(nnx.Rngs(0)), "'old'"),
    (Old(nnx.Rngs(0)), "'the model'"),
  ):
    text = f"{where} is a module with pytree=False"
    with pytest.raises(errors.UserError, match=text):
      jbin.quantize(model, jbin.Rule(**EIGHT))
