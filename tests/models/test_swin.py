"""Swin: sizes, windows and shifts against all pairs of tokens, rules."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jbin
from jbin import cost, errors, models
from jbin.models import _swin
from tests import programs
from tests.models import abstract, formulas

SIZES = {"swin_t": 28_288_354, "swin_s": 49_606_258}
SMALL = {
  "features": 4,
  "depths": (4, 2),
  "heads": (1, 2),
  "window": 3,
  "patch": 2,
  "num_classes": 5,
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes(name):
  model = abstract.build(name)
  assert abstract.count(model) == SIZES[name]
  got = abstract.logits(model, (2, 224, 224, 3))
  assert (got.shape, got.dtype) == ((2, 1000), jnp.float32)


def test_bfloat16():
  model = abstract.build("swin", **SMALL, image_size=12, dtype=jnp.bfloat16)
  assert abstract.logits(model, (1, 12, 12, 3)).dtype == jnp.bfloat16
  for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
    assert variable.dtype == jnp.float32, path


# --- Windows ------------------------------------------------------------------


@pytest.mark.parametrize("window", [1, 2, 7])
def test_a_pair_of_tokens_has_the_row_of_its_distance(window):
  """Rows in the order of all distances, those of a column together."""
  reach = range(1 - window, window)
  rows = {pair: i for i, pair in enumerate(itertools.product(reach, reach))}
  found = _swin.relative_index(window)
  places = list(itertools.product(range(window), repeat=2))
  for i, (a, b) in enumerate(places):
    for j, (c, d) in enumerate(places):
      assert found[i, j] == rows[a - c, b - d]


@pytest.mark.parametrize(
  ("height", "width", "window", "shift"), [(6, 9, 3, 1), (14, 14, 7, 3)]
)
def test_a_shift_joins_no_tokens_that_were_apart(height, width, window, shift):
  """In one window: those nearer than its side, before the roll."""
  found = _swin.together(height, width, window, shift)
  assert found.shape[1:] == (1, window**2, window**2)
  columns = width // window
  for n, allowed in enumerate(found[:, 0]):
    begin = divmod(n, columns)
    at = [
      tuple(
        (window * first + step + shift) % size
        for first, step, size in zip(begin, steps, (height, width), strict=True)
      )
      for steps in itertools.product(range(window), repeat=2)
    ]
    for i, j in itertools.product(range(window**2), repeat=2):
      near = all(abs(a - b) < window for a, b in zip(at[i], at[j], strict=True))
      assert allowed[i, j] == near


def _attend(p, table, x, window, shift):
  """All pairs of tokens of the map; those of other windows are forbidden."""
  h, w, c = x.shape
  x = np.pad(x, ((0, -h % window), (0, -w % window), (0, 0)))
  at = np.indices(x.shape[:2]).reshape(2, -1)
  place = (at - shift) // window
  same = (place[:, :, None] == place[:, None]).all(0)
  apart = np.clip(at[:, :, None] - at[:, None] + window - 1, 0, 2 * window - 2)
  bias = np.where(same, np.moveaxis(table, 1, 0)[:, apart[0], apart[1]], -1e9)
  y = formulas.attention(p, x.reshape(-1, c), bias)
  return y.reshape(x.shape)[:h, :w]


def _numpy(model, image):
  p = formulas.pure(model)
  image = np.pad(
    image, ((0, -len(image) % 2), (0, -image.shape[1] % 2), (0, 0))
  )
  x = formulas.patches(p["patches"], image, 2)
  x = formulas.norm(p["patches_norm"], x, 1e-5)
  for i, depth in enumerate(SMALL["depths"]):
    stage = p["stages"][i]
    window = model.stages[i].blocks.even.window
    shift = window // 2 if min(x.shape[:2]) > window else 0
    for j in range(depth):
      pair = formulas.member(stage["blocks"], j // 2)
      block = pair[("even", "odd")[j % 2]]
      table = block["table"].reshape(2 * window - 1, 2 * window - 1, -1)
      table = np.moveaxis(table, 2, 1)
      by = shift * (j % 2)
      attend = lambda a, y: _attend(a, table, y, window, by)  # noqa: B023
      x = formulas.block(block, x, 1e-5, attend)
    if "merge" in stage:
      x = np.pad(x, ((0, len(x) % 2), (0, x.shape[1] % 2), (0, 0)))
      four = [x[::2, ::2], x[1::2, ::2], x[::2, 1::2], x[1::2, 1::2]]
      x = formulas.norm(stage["merge"]["norm"], np.concatenate(four, -1), 1e-5)
      x = x @ stage["merge"]["linear"]["kernel"]
  x = formulas.norm(p["norm"], x, 1e-5).mean((0, 1))
  return formulas.linear(p["head"], x)


def _make(size, seed=0, **options):
  model = models.swin(**SMALL, image_size=size, **options, rngs=nnx.Rngs(seed))
  rng = np.random.default_rng(seed)
  draw = lambda p: jnp.asarray(rng.normal(0, 0.5, p.shape), p.dtype)
  nnx.update(model, jax.tree.map(draw, nnx.state(model, nnx.Param)))
  return model


_run = programs.once(lambda model, x: model(x))


@pytest.mark.parametrize(
  ("size", "shape", "windows"),
  [
    # Whole windows; the second map is one window, and is not shifted.
    (12, (12, 12), (3, 3)),
    # Pixels, windows and merges padded.
    (12, (13, 19), (3, 3)),
    # The second map is smaller than a window.
    (8, (8, 8), (3, 2)),
  ],
)
def test_it_is_attention_between_all_pairs_of_a_window(size, shape, windows):
  model = _make(size)
  found = tuple(stage.blocks.odd.window for stage in model.stages)
  assert found == windows
  x = np.random.default_rng(1).normal(size=(2, *shape, 3)).astype(np.float32)
  got = _run(model, x)
  for i, image in enumerate(x):
    want = _numpy(model, image)
    np.testing.assert_allclose(got[i], want, rtol=1e-4, atol=1e-4)


# --- Low-bit, and training ----------------------------------------------------


def test_rules_reach_every_linear_map_and_both_products_of_attention():
  model = abstract.build("swin", **SMALL, image_size=12)
  example = jax.ShapeDtypeStruct((1, 12, 12, 3), jnp.float32)
  blocks = [
    f"stages/{i}/blocks/{half}" for i in (0, 1) for half in ("even", "odd")
  ]
  want = formulas.expected(*blocks, mlp="1x1")
  assert formulas.bits(model, example, mlp="w1a1") == want
  rules = jbin.convert.REGISTRY.get("bivit")(mlp="w1a1")
  macs = cost.count(jbin.quantize(model, rules), example).macs
  body = 0
  for depth, wide, tokens in ((4, 4, 36), (2, 8, 9)):
    body += depth * tokens * (12 * wide * wide + 2 * 9 * wide)
  assert macs == {
    (1, 1): body,
    (32, 32): 36 * 12 * 4 + 9 * 16 * 8 + 8 * 5,
  }


def test_paths_are_dropped_more_often_the_deeper_they_are():
  """For each example by itself."""
  model = models.swin(**SMALL, image_size=12, drop_path=0.5, rngs=nnx.Rngs(0))
  rates = np.concatenate([stage.rates.ravel() for stage in model.stages])
  np.testing.assert_allclose(rates, np.linspace(0, 0.5, 6))
  x = np.tile(np.ones((1, 12, 12, 3), np.float32), (8, 1, 1, 1))
  assert len(np.unique(_run(model, x), axis=0)) > 4


@pytest.mark.parametrize(
  ("options", "text"),
  [
    ({"depths": (2, 3)}, "an even number of blocks to each stage"),
    ({"depths": (2,)}, "as many of one as of the other"),
    ({"heads": (1, 3)}, "3 heads cannot have 8 features"),
    ({"window": 0}, "each is 1 or more"),
  ],
)
def test_errors(options, text):
  with pytest.raises(errors.UserError, match=text):
    models.swin(**{**SMALL, "image_size": 12, **options}, rngs=nnx.Rngs(0))


def test_a_map_that_is_smaller_than_a_window():
  model = abstract.build("swin", **SMALL, image_size=12)
  text = "map of 2x3 tokens is smaller than a window of 3"
  with pytest.raises(errors.UserError, match=text):
    abstract.logits(model, (1, 8, 12, 3))
