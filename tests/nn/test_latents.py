"""Which weights are latent, by the paths of the model's state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jbin import nn, quantizers
from tests.nn import layers

SIGN, XNOR = quantizers.sign(), quantizers.xnor()


class Codebook(nnx.Module):
  """A layer of somebody else's, by the same convention."""

  def __init__(self):
    self.codebook = nnx.Param(jnp.ones((3, 2)))
    self.codebook_quantizer = nn.Quantizer(SIGN, 2)
    self.input_quantizer = nn.Quantizer(SIGN, 2)
    self.own = nn.Quantizer(SIGN, 2)


class Model(nnx.Module):
  """One of each, here and there."""

  def __init__(self, rngs):
    self.embed = nn.Embed(5, 4, embedding_quantizer=SIGN, rngs=rngs)
    self.blocks = nnx.List(
      [
        nn.Linear(4, 4, kernel_quantizer=XNOR, rngs=rngs),
        nnx.Dict(inner=nn.Conv(4, 4, (3,), kernel_quantizer=SIGN, rngs=rngs)),
        nn.Linear(4, 4, rngs=rngs),
        nn.Linear(4, 4, input_quantizer=SIGN, rngs=rngs),
        nnx.Linear(4, 4, rngs=rngs),
      ]
    )
    self.general = nn.LinearGeneral(
      (2, 2), 3, axis=(-2, -1), kernel_quantizer=XNOR, rngs=rngs
    )
    self.attention = nn.DotProductAttention(4, value_quantizer=SIGN)
    self.codebook = Codebook()
    self.stack = nnx.vmap(
      lambda rngs: nn.Linear(4, 4, kernel_quantizer=XNOR, rngs=rngs)
    )(rngs.split(2))


WANT = {
  ("blocks", 0, "kernel"): XNOR,
  ("blocks", 1, "inner", "kernel"): SIGN,
  ("codebook", "codebook"): SIGN,
  ("embed", "embedding"): SIGN,
  ("general", "kernel"): XNOR,
  ("stack", "kernel"): XNOR,
}


@pytest.mark.parametrize("abstract", [False, True])
def test_every_latent_by_its_path(abstract):
  make = lambda: Model(nnx.Rngs(0))
  model = nnx.eval_shape(make) if abstract else make()
  found = nn.latents(model)
  assert {path: held.spec for path, held in found.items()} == WANT
  paths = [path for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param))]
  assert list(found) == [path for path in paths if path in found]


def test_a_quantizer_takes_its_latent_as_it_is_stored():
  """What it returns is what the layer multiplies with."""
  model = Model(nnx.Rngs(0))
  state = layers.state_of(model)
  found = nn.latents(model)
  for path, quantizer in found.items():
    weight = state[path][1]
    run = nnx.vmap(lambda q, w: q(w)) if path[0] == "stack" else None
    seen = run(quantizer, weight) if run else quantizer(weight)
    assert seen.codes.size == weight.size
    np.testing.assert_array_equal(
      np.sort(np.asarray(seen.codes).ravel()),
      np.sort(np.where(np.asarray(weight) < 0, -1, 1).ravel()),
    )
  assert found["general", "kernel"](state["general", "kernel"][1]).shape == (
    4,
    3,
  )


def test_a_shared_weight_is_there_once():
  class Tied(nnx.Module):
    def __init__(self):
      self.first = nn.Linear(3, 3, rngs=nnx.Rngs(0))
      self.second = nn.Linear(3, 3, kernel_quantizer=XNOR, rngs=nnx.Rngs(0))
      self.second.kernel = self.first.kernel

  found = nn.latents(Tied())
  assert {path: held.spec for path, held in found.items()} == {
    ("first", "kernel"): XNOR
  }


def test_a_float_model_has_none():
  assert nn.latents(nnx.Linear(3, 3, rngs=nnx.Rngs(0))) == {}


def test_a_mask_for_an_optimizer():
  """As long as the parameters: true at latents, false elsewhere."""
  model = Model(nnx.Rngs(0))
  found = nn.latents(model)
  params = nnx.state(model, nnx.Param)
  mask = nnx.map_state(lambda path, _: path in found, params)
  assert jax.tree.structure(
    jax.tree.map(lambda _: 0, nnx.to_pure_dict(params))
  ) == jax.tree.structure(nnx.to_pure_dict(mask))
  assert sum(jax.tree.leaves(nnx.to_pure_dict(mask))) == len(WANT)
