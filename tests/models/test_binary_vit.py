"""A block of a binary vision transformer at 197 tokens, as it trains."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jbin
from jbin import convert, models, schedules
from tests import programs

IMAGES = np.random.default_rng(0).normal(size=(2, 56, 56, 3)).astype(np.float32)
LABELS = jnp.asarray([1, 3])


def _model(dtype, **options):
  """Patches of 4: 14 x 14 and the class token."""
  model = models.vit(
    4,
    features=32,
    depth=1,
    heads=2,
    patch=4,
    image_size=56,
    dtype=dtype,
    rngs=nnx.Rngs(0),
  )
  return jbin.quantize(model, convert.REGISTRY.get("bivit")(**options), IMAGES)


@pytest.mark.parametrize(
  "options",
  [
    {"mlp": "w1a1"},
    {"mlp": "w1a32", "mlp_start": 0.5},
  ],
  ids=["all at once", "cross-layer"],
)
def test_it_trains_in_bfloat16_and_compiles_once(options):
  """No NaN, whatever the progress; the loss of two images falls."""
  model = _model(jnp.bfloat16, **options)
  graphdef, params, rest = nnx.split(model, nnx.Param, ...)
  optimizer = optax.adam(2e-3)

  def step(params, rest, state):
    def loss(params):
      logits = nnx.merge(graphdef, params, rest, copy=True)(IMAGES)
      logits = logits.astype(jnp.float32)
      each = optax.softmax_cross_entropy_with_integer_labels(logits, LABELS)
      return each.mean()

    value, gradients = jax.value_and_grad(loss)(params)
    updates, state = optimizer.update(gradients, state, params)
    return optax.apply_updates(params, updates), state, value, gradients

  run = programs.Jit(step)
  state, losses = optimizer.init(params), []
  for i in range(12):
    rest = schedules.set_progress(rest, schedules.progress_at(i, 12))
    params, state, value, gradients = run(params, rest, state)
    losses.append(float(value))
    for leaf in jax.tree.leaves((params, gradients)):
      assert np.isfinite(leaf).all()
  assert run.traces == 1
  assert np.isfinite(losses).all()
  assert losses[-1] < 0.8 * losses[0]


def test_its_attention_is_of_bits():
  """Of the products of a block none but those of floats by rule are wide."""
  plan = jbin.plan(
    models.vit(
      4, features=32, depth=1, heads=2, patch=4, image_size=56, rngs=nnx.Rngs(0)
    ),
    convert.REGISTRY.get("bivit")(mlp="w1a1"),
    IMAGES,
  )
  wide = [e.path for e in plan.entries if e.bits and not e.slots]
  assert wide == ["patches", "head"]
