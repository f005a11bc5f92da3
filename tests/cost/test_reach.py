"""Large models: nothing is made, and scanned layers are walked once."""

import functools
import resource

import jax
import jax.numpy as jnp
import pytest

from experiments.cost_tables.models import parts, unrolled
from experiments.cost_tables.papers import bimamba
from jbin import cost, models
from jbin.cost import _walk

KIB, MIB = 2**10, 2**20
TOKENS = jax.ShapeDtypeStruct((1, 2048), jnp.int32)


def _mamba(depth=64, *, rngs):
  """Mamba-2, 2.7B."""
  make = functools.partial(models.mamba2, features=2560, dtype=jnp.bfloat16)
  return make(layers=depth, rngs=rngs)


def _llama(depth=32, *, rngs, **options):
  """Llama, 7B."""
  sizes = {"features": 4096, "heads": 32, "mlp_features": 11008, **options}
  return models.llama(layers=depth, dtype=jnp.bfloat16, rngs=rngs, **sizes)


# Name -> what makes it, what is binary, and its parameters.
MODELS = {
  "bimamba": (_mamba, bimamba.PROJECTIONS, 2_702_599_680),
  "llama": (_llama, "layers/.*", 6_738_415_616),
}
every_model = pytest.mark.parametrize("name", MODELS)


def _low(name, **changes):
  make, path, _ = MODELS[name]
  return bimamba.binary(parts.abstract(make, **changes), path)


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
  learned = [p for p in report.parameters if "kernel_quantizer/" in p]
  scales = sum(report.parameters[path].size for path in learned)
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
  make = functools.partial(_llama, depth=3, kv_heads=8)
  scanned, apart = (
    cost.count(parts.abstract(each), TOKENS)
    for each in (make, functools.partial(unrolled.Unrolled, make))
  )
  assert scanned.macs == apart.macs
  assert scanned.params == apart.params
  assert scanned.memory() == apart.memory()
  assert scanned.elementwise_by_primitive == apart.elementwise_by_primitive
  assert len(apart.layers) == 3 * (len(scanned.layers) - 1) + 1


# --- the models are those networks --------------------------------------------


@pytest.mark.parametrize(
  ("changes", "parameters"),
  [
    ({}, 6_738_415_616),  # Llama 2, 7B
    (
      {"kv_heads": 8, "mlp_features": 14336, "vocab_size": 128256},
      8_030_261_248,  # Llama 3, 8B
    ),
  ],
)
def test_llama_has_the_parameters_of_the_released_ones(changes, parameters):
  report = cost.count(parts.abstract(_llama, **changes), TOKENS)
  assert report.params["total"] == parameters
