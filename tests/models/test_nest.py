"""NesT: sizes, squares that do not see each other, merges, rules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jbin
from jbin import cost, errors, models
from tests import programs
from tests.models import abstract, formulas

SIZES = {"nest_t": 17_057_608, "nest_s": 38_351_176}
SMALL = {
  "features": (4, 8),
  "depths": (2, 1),
  "heads": (1, 2),
  "patch": 2,
  "image_size": 12,
  "num_classes": 5,
}
IMAGES = np.random.default_rng(0).normal(size=(2, 12, 12, 3)).astype(np.float32)


@pytest.mark.parametrize("name", SIZES)
def test_sizes(name):
  model = abstract.build(name)
  assert abstract.count(model) == SIZES[name]
  got = abstract.logits(model, (2, 224, 224, 3))
  assert (got.shape, got.dtype) == ((2, 1000), jnp.float32)
  assert [level.size for level in model.levels] == [14, 14, 14]


def test_bfloat16():
  model = abstract.build("nest", **SMALL, dtype=jnp.bfloat16)
  assert abstract.logits(model, (1, 12, 12, 3)).dtype == jnp.bfloat16
  for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
    assert variable.dtype == jnp.float32, path


def _make(seed=0):
  model = models.nest(**SMALL, rngs=nnx.Rngs(seed))
  rng = np.random.default_rng(seed)
  draw = lambda p: jnp.asarray(rng.normal(0, 0.5, p.shape), p.dtype)
  nnx.update(model, jax.tree.map(draw, nnx.state(model, nnx.Param)))
  return model


def _merged(p, x):
  """A 3x3 convolution, a norm, the largest of 3x3 at every other pixel."""
  h, w, _ = x.shape
  wide = np.pad(x, ((1, 1), (1, 1), (0, 0)))
  y = p["conv"]["bias"] + sum(
    wide[i : i + h, j : j + w] @ p["conv"]["kernel"][i, j]
    for i in range(3)
    for j in range(3)
  )
  y = formulas.norm(p["norm"], y, 1e-6)
  return np.array(
    [
      [y[i : i + 3, j : j + 3].max((0, 1)) for j in range(0, w, 2)]
      for i in range(0, h, 2)
    ]
  )


def _numpy(model, image):
  p = formulas.pure(model)
  x = formulas.patches(p["patches"], image, 2)
  for i, depth in enumerate(SMALL["depths"]):
    level = p["levels"][i]
    if i:
      x = _merged(level["merge"], x)
    squares = [(a, b) for a in range(0, len(x), 3) for b in range(0, len(x), 3)]
    for n, (a, b) in enumerate(squares):
      square = x[a : a + 3, b : b + 3].reshape(9, -1) + level["positions"][0, n]
      for j in range(depth):
        block = formulas.member(level["blocks"], j)
        square = formulas.block(block, square, 1e-6)
      x[a : a + 3, b : b + 3] = square.reshape(3, 3, -1)
  x = formulas.norm(p["norm"], x, 1e-6).mean((0, 1))
  return formulas.linear(p["head"], x)


_run = programs.once(lambda model, x: model(x))


def test_it_is_a_transformer_on_each_square_and_merges_between():
  model = _make()
  got = _run(model, IMAGES)
  for i, image in enumerate(IMAGES):
    want = _numpy(model, image)
    np.testing.assert_allclose(got[i], want, rtol=1e-4, atol=1e-4)


def test_rules_reach_every_linear_map_and_both_products_of_attention():
  model = abstract.build("nest", **SMALL)
  example = jax.ShapeDtypeStruct((1, 12, 12, 3), jnp.float32)
  want = formulas.expected("levels/0/blocks", "levels/1/blocks")
  assert formulas.bits(model, example) == want
  rules = jbin.convert.REGISTRY.get("bivit")()
  macs = cost.count(jbin.quantize(model, rules), example).macs
  attention = mlp = 0
  for depth, wide, tokens in ((2, 4, 36), (1, 8, 9)):
    attention += depth * tokens * (4 * wide * wide + 2 * 9 * wide)
    mlp += depth * tokens * 8 * wide * wide
  rest = 36 * 12 * 4 + 36 * 9 * 4 * 8 + 8 * 5
  assert macs == {(1, 1): attention, (32, 1): mlp, (32, 32): rest}


def test_paths_are_dropped_more_often_the_deeper_they_are():
  """For each example by itself."""
  model = models.nest(**SMALL, drop_path=0.5, rngs=nnx.Rngs(0))
  rates = np.concatenate([level.rates for level in model.levels])
  np.testing.assert_allclose(rates, [0, 0.25, 0.5])
  x = np.tile(IMAGES[:1], (8, 1, 1, 1))
  assert len(np.unique(_run(model, x), axis=0)) > 4


@pytest.mark.parametrize(
  ("options", "text"),
  [
    ({"depths": (2,)}, "one of each to every level"),
    ({"image_size": 10}, "whole multiples of 4 pixels, not of 10"),
    ({"heads": (3, 2)}, "3 heads cannot have 4 features"),
  ],
)
def test_errors(options, text):
  with pytest.raises(errors.UserError, match=text):
    models.nest(**{**SMALL, **options}, rngs=nnx.Rngs(0))
