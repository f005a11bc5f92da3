"""Large models: nothing is made, and scanned layers are walked once."""

import dataclasses
import resource

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.cost_tables.models import llama, mamba2, parts
from experiments.cost_tables.papers import bimamba
from jbin import cost
from jbin.cost import _walk

KIB, MIB = 2**10, 2**20
TOKENS = jax.ShapeDtypeStruct((1, 2048), jnp.int32)
TRANSFORMER, SPACE = llama.SIZES["7B"], mamba2.SIZES["2.7B"]
# Name -> what makes it, its size, what is binary, and its parameters.
MODELS = {
  "bimamba": (mamba2.Mamba2, SPACE, bimamba.PROJECTIONS, 2_702_599_680),
  "llama": (llama.Llama, TRANSFORMER, "layers/.*", 6_738_415_616),
}
every_model = pytest.mark.parametrize("name", MODELS)


def _low(name, **changes):
  make, size, path, _ = MODELS[name]
  size = dataclasses.replace(size, **changes)
  return bimamba.binary(parts.abstract(make, size), path)


def _loss(model, tokens):
  scores = jax.nn.log_softmax(model(tokens).astype(jnp.float32))
  return -jnp.take_along_axis(scores, tokens[..., None], -1).mean()


def _trained(model, tokens):
  return cost.training(jax.grad(_loss), model, tokens)


def _peak():
  """Bytes of this process's largest resident memory, as Linux has it."""
  return KIB * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _arrays():
  """Bytes of the arrays that there are."""
  return sum(array.nbytes for array in jax.live_arrays())


ways = pytest.mark.parametrize("count", [cost.count, _trained])


# --- nothing is made ----------------------------------------------------------


@every_model
@ways
def test_no_array_is_made(name, count):
  peak, before = _peak(), _arrays()
  model = _low(name)
  report = count(model, TOKENS)
  assert _arrays() - before < MIB
  leaves = jax.tree.leaves(model)
  assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)
  scales = report.memory().other_parameters_by_bits[32]
  assert report.params["total"] - scales == MODELS[name][-1]
  # The weights alone are from 5 to 13 GiB.
  assert _peak() - peak < 512 * MIB


# --- scanned layers are walked once -------------------------------------------


@pytest.fixture
def steps(monkeypatch):
  """Equations that the walk went through."""
  seen = []
  step = _walk.Walker.step

  def counted(self, eqn, *args):
    seen.append(eqn.primitive.name)
    return step(self, eqn, *args)

  monkeypatch.setattr(_walk.Walker, "step", counted)
  return seen


@every_model
@ways
def test_a_hundred_layers_are_walked_as_one(name, count, steps):
  found = {}
  for depth in (1, 100):
    steps.clear()
    report = count(_low(name, depth=depth), TOKENS)
    found[depth] = list(steps), report
  (one, first), (many, last) = found.values()
  assert many == one
  assert len(last.layers) == len(first.layers)
  layer = [r.macs for r in first.layers if r.name.startswith("layers")]
  layers = [r.macs for r in last.layers if r.name.startswith("layers")]
  assert layers == [100 * macs for macs in layer]


def test_scanned_layers_cost_what_they_do_one_by_one():
  size = dataclasses.replace(TRANSFORMER, depth=3, groups=4)
  reports = [
    cost.count(parts.abstract(llama.Llama, size, scanned=scanned), TOKENS)
    for scanned in (True, False)
  ]
  scanned, unrolled = reports
  assert scanned.macs == unrolled.macs
  assert scanned.params == unrolled.params
  assert scanned.memory() == unrolled.memory()
  assert scanned.elementwise_by_primitive == unrolled.elementwise_by_primitive
  assert len(unrolled.layers) == 3 * (len(scanned.layers) - 1) + 1


# --- the models are those networks --------------------------------------------


@jax.jit
def _call(model, tokens):
  return model(tokens)


@pytest.mark.parametrize(
  ("changes", "parameters"),
  [
    ({}, 6_738_415_616),  # Llama 2, 7B
    ({"groups": 4, "wide": 14336, "vocabulary": 128256}, 8_030_261_248),
  ],
)
def test_llama_has_the_parameters_of_the_released_ones(changes, parameters):
  size = dataclasses.replace(TRANSFORMER, **changes)
  report = cost.count(parts.abstract(llama.Llama, size), TOKENS)
  assert report.params["total"] == parameters


@pytest.mark.parametrize("groups", [1, 2])
def test_mamba_2_by_chunks_is_mamba_2_by_recurrence(groups):
  size = mamba2.Size(
    8, 2, 11, head_dim=4, state=5, groups=groups, window=3, chunk=4
  )
  model = mamba2.Mamba2(size, dtype=jnp.float32, rngs=nnx.Rngs(0))
  # Heads that forget at different rates; the sequence ends inside a chunk.
  rates = jnp.linspace(-1, 1, 2 * size.heads).reshape(2, -1)
  model.layers.mixer.A_log.set_value(rates)
  tokens = jax.random.randint(jax.random.key(1), (2, 10), 0, 11)
  whole = _call(model, tokens)
  step = jax.jit(lambda model, token, kept: model.step(token, kept))
  kept = mamba2.cache(size, 2, jnp.float32)
  for i in range(tokens.shape[1]):
    scores, kept = step(model, tokens[:, i : i + 1], kept)
    np.testing.assert_allclose(scores[:, 0], whole[:, i], atol=1e-5, rtol=1e-4)


def test_llama_looks_back_only():
  size = llama.Size(8, 2, 16, 4, groups=2, vocabulary=11)
  model = llama.Llama(size, dtype=jnp.float32, rngs=nnx.Rngs(0))
  tokens = jax.random.randint(jax.random.key(1), (2, 10), 0, 11)
  ours = np.asarray(_call(model, tokens))
  theirs = np.asarray(_call(model, tokens.at[:, 6:].set(0)))
  np.testing.assert_allclose(ours[:, :6], theirs[:, :6], atol=1e-6)
  assert np.abs(ours - theirs)[:, 6:].max() > 0.01
