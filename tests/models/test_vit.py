"""ViT and DeiT: sizes, a forward pass in numpy, taps, rules, dropped paths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jbin
from jbin import cost, errors, models, nn, views
from tests import programs
from tests.models import abstract, formulas

SMALL = {
  "features": 8,
  "depth": 3,
  "heads": 2,
  "patch": 2,
  "image_size": 6,
  "num_classes": 5,
}
SIZES = {"deit_t": 5_717_416, "deit_s": 22_050_664, "deit_b": 86_567_656}
IMAGES = np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype(np.float32)


def _make(seed=0, **options):
  """A small net with parameters of size one, norms and biases too."""
  model = models.vit(**{**SMALL, **options}, rngs=nnx.Rngs(seed))
  rng = np.random.default_rng(seed)
  state = nnx.state(model, nnx.Param)
  draw = lambda p: jnp.asarray(rng.normal(0, 0.5, p.shape), p.dtype)
  nnx.update(model, jax.tree.map(draw, state))
  return model


@pytest.mark.parametrize("name", SIZES)
def test_sizes(name):
  model = abstract.build(name)
  assert abstract.count(model) == SIZES[name]
  got = abstract.logits(model, (2, 224, 224, 3))
  assert (got.shape, got.dtype) == ((2, 1000), jnp.float32)


def test_a_size_sets_what_it_is_named_for_and_no_more():
  model = abstract.build(
    "deit_t", image_size=32, patch=8, in_features=1, num_classes=7
  )
  assert abstract.logits(model, (3, 32, 32, 1)).shape == (3, 7)


def test_bfloat16():
  """Also of what is tapped; parameters stay float32."""
  model = abstract.build("vit", **SMALL, dtype=jnp.bfloat16)
  assert abstract.logits(model, IMAGES.shape).dtype == jnp.bfloat16
  for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
    assert variable.dtype == jnp.float32, path


def test_parameters_start_as_the_references_do():
  model = models.vit(**{**SMALL, "features": 64}, rngs=nnx.Rngs(0))
  for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
    value = np.asarray(variable[...])
    if path[-1] == "bias":
      assert not value.any()
    elif path[-1] == "scale":
      assert (value == 1).all()
    else:
      assert value.std() == pytest.approx(0.02, rel=0.3), path
  query = np.asarray(model.blocks.attn.query.kernel[...])
  assert not np.allclose(query[0], query[1])


# --- The forward pass ---------------------------------------------------------


@programs.once
def _run(model, images):
  return model(images, taps=True), model(images)


def _numpy(model, image, pool):
  p = formulas.pure(model)
  x = formulas.patches(p["patches"], image, 2).reshape(9, -1)
  if pool == "token":
    x = np.concatenate([p["token"][0], x])
  hidden = [x + p["positions"][0]]
  for i in range(SMALL["depth"]):
    block = formulas.member(p["blocks"], i)
    hidden.append(formulas.block(block, hidden[-1], 1e-12))
  y = formulas.norm(p["norm"], hidden[-1], 1e-12)
  y = y[0] if pool == "token" else y.mean(0)
  return formulas.linear(p["head"], y), np.stack(hidden)


@pytest.mark.parametrize("pool", ["token", "mean"])
def test_it_is_the_formula_and_taps_show_its_parts(pool):
  model = _make(pool=pool)
  out, logits = _run(model, IMAGES)
  tokens = 9 + (pool == "token")
  assert isinstance(out, models.Outputs)
  assert out.hidden.shape == (4, 2, tokens, 8)
  assert out.query.shape == out.key.shape == out.value.shape
  assert out.query.shape == (3, 2, tokens, 2, 4)
  assert out.token_logits is None
  np.testing.assert_allclose(out.logits, logits, rtol=1e-4, atol=1e-5)
  for i, image in enumerate(IMAGES):
    want, hidden = _numpy(model, image, pool)
    np.testing.assert_allclose(logits[i], want, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(out.hidden[:, i], hidden, rtol=1e-4, atol=1e-4)


def test_the_stack_is_its_members_one_by_one():
  """Taps too: the projections of each block's normed input."""
  model = _make(qkv_bias=False)
  assert model.blocks.attn.query.bias is None
  out, _ = _run(model, IMAGES)
  x = model.embed(IMAGES)
  np.testing.assert_allclose(out.hidden[0], x, rtol=1e-6)
  for i, block in enumerate(nn.members(model.blocks)):
    y = block.norm1(x)
    for name in ("query", "key", "value"):
      want = getattr(block.attn, name)(y)
      got = getattr(out, name)[i]
      np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    x = block(x)
    np.testing.assert_allclose(out.hidden[i + 1], x, rtol=1e-4, atol=1e-4)


# --- Low-bit ------------------------------------------------------------------


@pytest.mark.parametrize("mlp", ["w1a32", "w1a1"])
def test_rules_reach_every_linear_map_and_both_products_of_attention(mlp):
  model = abstract.build("vit", **SMALL)
  example = jax.ShapeDtypeStruct((1, 6, 6, 3), jnp.float32)
  pair = {"w1a32": "32x1", "w1a1": "1x1"}[mlp]
  want = formulas.expected("blocks", mlp=pair)
  assert formulas.bits(model, example, mlp=mlp) == want
  rules = jbin.convert.REGISTRY.get("bivit")(mlp=mlp)
  macs = cost.count(jbin.quantize(model, rules), example).macs
  body = 3 * (4 * 10 * 8 * 8 + 2 * 10 * 10 * 8), 3 * 2 * 10 * 8 * 32
  rest = 9 * 12 * 8 + 8 * 5
  binary = {(1, 1): body[0], (32, 1): body[1]}
  if mlp == "w1a1":
    binary = {(1, 1): sum(body)}
  assert macs == {**binary, (32, 32): rest}


def test_a_binary_one_trains_in_bfloat16():
  model = _make(dtype=jnp.bfloat16, drop_path=0.2, dropout=0.1)
  low = jbin.quantize(model, jbin.convert.REGISTRY.get("bivit")(mlp="w1a1"))
  graph, params, rest = nnx.split(low, nnx.Param, ...)

  @jax.jit
  def step(params, rest):
    def loss(params):
      net = nnx.merge(graph, params, rest, copy=True)
      logits = net(jnp.asarray(IMAGES)).astype(jnp.float32)
      return -jax.nn.log_softmax(logits)[:, 0].mean()

    return jax.value_and_grad(loss)(params)

  value, gradients = step(params, rest)
  assert np.isfinite(value)
  found = dict(nnx.to_flat_state(gradients))
  for path, gradient in found.items():
    assert np.isfinite(np.asarray(gradient[...], np.float32)).all(), path
  for path in (
    ("positions",),
    ("blocks", "attn", "value", "kernel"),
    ("blocks", "mlp", "fc1", "kernel"),
    ("blocks", "mlp", "fc1", "kernel_quantizer", "learned", "alpha"),
  ):
    assert np.asarray(found[path][...]).any(), path


# --- Training -----------------------------------------------------------------


def test_paths_are_dropped_more_often_the_deeper_they_are():
  model = models.vit(**SMALL, drop_path=0.8, rngs=nnx.Rngs(0))
  np.testing.assert_allclose(model.rates, [0, 0.4, 0.8])
  images = jnp.asarray(np.tile(IMAGES[:1], (200, 1, 1, 1)))
  run = nnx.jit(lambda model, x: model(x, taps=True).hidden)
  hidden, again = run(model, images), run(model, images)
  same = (hidden[1:] == hidden[:-1]).all((2, 3)).mean(1)
  np.testing.assert_allclose(same, [0, 0.4**2, 0.8**2], atol=0.12)
  assert not np.allclose(hidden, again)
  plain = models.vit(**SMALL, rngs=nnx.Rngs(1))
  nnx.update(plain, nnx.state(model, nnx.Param))
  want, _ = _run(plain, IMAGES)
  still, _ = _run(views.evaluation(model), IMAGES)
  np.testing.assert_allclose(still.hidden, want.hidden, rtol=1e-5, atol=1e-6)


def test_dropout_is_for_training():
  model = models.vit(**SMALL, dropout=0.5, rngs=nnx.Rngs(0))
  run = nnx.jit(lambda model, x: model(x))
  assert not np.allclose(run(model, IMAGES), run(model, IMAGES))
  view = views.evaluation(model)
  np.testing.assert_array_equal(run(view, IMAGES), run(view, IMAGES))


def test_no_stream_is_kept_where_nothing_is_drawn():
  model = abstract.build("vit", **SMALL)
  assert not nnx.state(model, nnx.RngState)


@pytest.mark.parametrize(
  ("options", "text"),
  [
    ({"pool": "max"}, "unknown pool 'max'"),
    ({"image_size": 7}, "no whole number of patches of 2"),
    ({"heads": 3}, "3 heads cannot have 8 features"),
    ({"drop_path": 1.0}, "drop_path is 1.0; it must be a rate"),
  ],
)
def test_errors(options, text):
  with pytest.raises(errors.UserError, match=text):
    models.vit(**{**SMALL, **options}, rngs=nnx.Rngs(0))
