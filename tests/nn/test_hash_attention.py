"""Hash attention: what it averages, when it is fitted, and what it costs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jbin import cost, errors, nn, views
from jbin.nn import _hash_attention, _hash_learning, _kernel_hash

HEADS, SIZE, TOKENS = 2, 4, 24
FEATURES = HEADS * SIZE
QUICK = nn.HashLearning(similar=3, iterations=5)
SMALL = {"bits": 6, "anchors": 5, "learning": QUICK}


def _x(tokens=TOKENS, seed=0, dtype=jnp.float32):
  x = np.random.default_rng(seed).normal(size=(3, tokens, FEATURES))
  return jnp.asarray(x, dtype)


def _layer(seed=0, **options):
  return nn.HashAttention(
    FEATURES, HEADS, **{**SMALL, **options}, rngs=nnx.Rngs(seed)
  )


def _fitted(x=None, **options):
  layer = _layer(**options)
  nn.calibrate(layer, _x() if x is None else x)
  return layer


def _parts(layer, x):
  codes = np.asarray(layer.hash(layer.qk(x)), np.float64)
  return codes, np.asarray(layer.value(x), np.float64)


@pytest.mark.parametrize("shift", ["own", "consistent"])
def test_it_is_the_quadratic_formula(shift):
  """Products of all pairs of tokens, written out."""
  layer, x = _fitted(shift=shift), _x(seed=1)
  codes, value = _parts(layer, x)
  assert set(np.unique(codes)) == {-1.0, 1.0}
  constant = codes.shape[-1] + 1
  similar = np.einsum("nihb,njhb->nhij", codes, codes)
  weights = similar + constant
  assert weights.min() >= 1
  above = np.einsum("nhij,njhd->nihd", weights, value)
  if shift == "own":
    above = np.einsum("nhij,njhd->nihd", similar, value) + constant * value
  y = above / np.moveaxis(weights.sum(-1), 1, 2)[..., None]
  want = layer.out(jnp.asarray(y, jnp.float32))
  np.testing.assert_allclose(layer(x), want, rtol=1e-5, atol=1e-6)


def test_a_hash_that_learns_is_nearer_to_its_target():
  """`|bits S - H H^T|^2` falls, and with it the relaxed loss of each bit."""
  x, size = _x(32).reshape(3, 32, HEADS, SIZE), (HEADS, SIZE, 8, 16)
  pairs = _hash_learning.pairs(jnp.swapaxes(_kernel_hash.unit(x), 1, 2), 4)
  signs = np.asarray(pairs.sign)[..., None] * np.eye(32)[pairs.columns]
  apart = []
  for iterations in (0, 60):
    how = nn.HashLearning(similar=4, iterations=iterations, rate=0.05)
    hashed = nn.KernelHash(*size, learning=how, rngs=nnx.Rngs(0))
    history = nnx.jit(lambda hashed, x: hashed.fit(x))(hashed, x)
    codes = np.asarray(nnx.jit(lambda hashed, x: hashed(x))(hashed, x))
    agree = np.einsum("nihb,njhb->nhij", codes, codes)
    apart.append(np.square(8 * signs.sum(-2) - agree).mean())
  assert apart[1] < 0.8 * apart[0], apart
  assert history.shape == (8, 60)
  assert (history[:, -1] < history[:, 0]).all()


def test_a_hash_that_is_not_fitted_is_an_error_and_is_fitted_once():
  layer, x = _layer(), _x()
  with pytest.raises(errors.UserError, match="is not fitted"):
    layer(x)
  view = views.view(layer, calibrating=False)
  assert np.isnan(nnx.jit(lambda f, x: f(x))(view, x)).all()
  before = jax.tree.map(np.asarray, nnx.state(layer, nnx.Param))
  nn.calibrate(layer, x)
  assert np.isfinite(layer(x)).all()
  learned = np.asarray(layer.hash.anchors[...])
  nn.calibrate(layer, 2 * _x(seed=3))
  np.testing.assert_array_equal(layer.hash.anchors[...], learned)
  layer.hash.fit(_x(seed=3).reshape(3, TOKENS, HEADS, SIZE))
  assert (np.asarray(layer.hash.anchors[...]) != learned).any()
  after = nnx.state(layer, nnx.Param)
  jax.tree.map(np.testing.assert_array_equal, before, after)


def test_what_fitting_refuses():
  with pytest.raises(errors.UserError, match=r"4 tokens are too few .* 5 or"):
    nn.calibrate(_layer(), _x(4))
  wide = _layer(learning=nn.HashLearning(similar=30))
  with pytest.raises(errors.UserError, match="30 nearest"):
    nn.calibrate(wide, _x())
  with pytest.raises(errors.UserError, match=r"expected \(batch.*, 2, 4\)"):
    _layer().hash.fit(_x())


@pytest.mark.parametrize(
  ("options", "text"),
  [
    ({"heads": 3}, "3 heads do not divide 8"),
    ({"heads": 0}, "0 heads do not divide 8"),
    ({"bits": 0}, r"bits=0, anchors=25; each is 1 or more"),
    ({"anchors": 0}, r"anchors=0; each is 1 or more"),
    ({"shift": "constant"}, r"unknown shift .*consistent"),
  ],
)
def test_what_it_is_not_made_with(options, text):
  with pytest.raises(errors.UserError, match=text):
    nn.HashAttention(8, **{"heads": 2, **options}, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("options", [{"similar": 0}, {"iterations": -1}])
def test_learning_from_nothing(options):
  with pytest.raises(errors.UserError, match="1 pair of each sign or more"):
    nn.HashLearning(**options)


def test_several_batch_axes_and_bfloat16():
  layer = _fitted()
  x = _x()
  deep = layer(x[None, :, None])
  np.testing.assert_allclose(deep[0, :, 0], layer(x), rtol=1e-5, atol=1e-6)
  low = _fitted(dtype=jnp.bfloat16)
  y = low(x)
  assert y.dtype == jnp.bfloat16
  codes, _ = _parts(layer, x)
  same = codes == _parts(low, x)[0]
  assert same.mean() > 0.9


@pytest.mark.parametrize("kind", ["zeros", "equal", "huge", "tiny"])
def test_gradients_are_finite_for(kind):
  """Also where all distances are 0: tokens alike, and anchors among them."""
  x = {
    "zeros": jnp.zeros((1, TOKENS, FEATURES)),
    "equal": jnp.ones((1, TOKENS, FEATURES)),
    "huge": 1e15 * _x(),
    "tiny": 1e-20 * _x(),
  }[kind]
  layer = _fitted(x)

  @nnx.jit
  def run(layer, x):
    return nnx.grad(lambda layer, x: layer(x).sum(), argnums=(0, 1))(layer, x)

  for leaf in jax.tree.leaves(run(layer, x)):
    assert np.isfinite(leaf).all()


def test_no_gradient_reaches_the_hash():
  layer, x = _fitted(), _x(seed=2)
  graph, params, rest = nnx.split(layer, nnx.Param, ...)
  names = {"/".join(map(str, path)) for path, _ in nnx.to_flat_state(rest)}
  assert names == {
    f"hash/{name}" for name in ("anchors", "means", "weights", "seed", "fitted")
  }

  def loss(numbers):
    state = _kernel_hash.Hash(*numbers)
    z = _kernel_hash.unit(layer.qk(x))
    return _kernel_hash.responses(z, state).sum()

  for grad in jax.grad(loss)(tuple(layer.hash.state)):
    assert not grad.any()
  del graph, params


class Stack(nnx.Module):
  def __init__(self, rngs):
    self.blocks = nn.stack(
      lambda rngs: nn.HashAttention(FEATURES, HEADS, **SMALL, rngs=rngs),
      3,
      rngs,
    )

  def __call__(self, x):
    return nn.scan(self.blocks, x)[0]


def test_a_stack_is_fitted_layer_by_layer():
  """Each on what those before it make with their new codes."""
  model, x = Stack(nnx.Rngs(0)), _x()
  y = x
  for layer in nn.members(model.blocks):
    view = views.view(layer, calibrating=True)
    y = nnx.jit(lambda view, x: view(x))(view, y)
  nn.calibrate(model, x)
  hashed = model.blocks.hash
  assert hashed.fitted[...].all()
  weights = np.asarray(hashed.weights[...])
  assert len({w.tobytes() for w in weights}) == 3
  np.testing.assert_allclose(weights[-1], view.hash.weights[...], atol=1e-5)
  got = nnx.jit(lambda model, x: model(x))(model, x)
  np.testing.assert_allclose(got, y, rtol=1e-4, atol=1e-5)


# --- Cost ---------------------------------------------------------------------


@functools.cache
def _report(tokens, exact=False):
  size, heads = 32, 2
  features = size * heads

  def make():
    if exact:
      return nn.MultiHeadAttention(
        heads, features, decode=False, rngs=nnx.Rngs(0)
      )
    return nn.HashAttention(features, heads, rngs=nnx.Rngs(0))

  x = jax.ShapeDtypeStruct((1, tokens, features), jnp.float32)
  return cost.count(nnx.eval_shape(make), x)


@pytest.mark.parametrize("by", ["energy_45nm", "ace", "macs", "elementwise"])
def test_its_cost_is_linear_in_the_tokens(by):
  def total(tokens, exact=False):
    report = _report(tokens, exact)
    if by == "macs":
      return sum(report.macs.values())
    if by == "elementwise":
      return sum(report.elementwise.values())
    return report.total(by)

  first = total(256)
  for tokens in (512, 8192):
    assert total(tokens) == tokens // 256 * first
  if by != "elementwise":
    assert total(8192, exact=True) > 100 * total(256, exact=True)
    assert total(8192) < 0.2 * total(8192, exact=True)


def test_the_published_element_wise_work_has_names():
  tokens, heads, size, bits, anchors = 256, 2, 32, 16, 25
  each = heads * tokens
  assert _report(tokens).elementwise == {
    "kernel_distance": each * anchors * size,
    "kernel_exponent": each * anchors,
    "code_sum": each * bits,
    "code_products": each * bits,
    "denominator": each,
    "own_value": each * size,
    "normalize": each * size,
  }


def test_no_array_of_tokens_times_anchors_times_size_is_kept():
  """Differences to all anchors would be the largest array of a step."""
  tokens, apart = 256, 256 * 2 * 25 * 32
  layer = nn.HashAttention(64, 2, rngs=nnx.Rngs(0))
  graph, params, rest = nnx.split(layer, nnx.Param, ...)

  def forward(params, rest, x):
    return nnx.merge(graph, params, rest)(x).sum()

  args = params, rest, jax.ShapeDtypeStruct((1, tokens, 64), jnp.float32)
  back = jax.eval_shape(lambda *args: jax.vjp(forward, *args)[1], *args)
  assert max(leaf.size for leaf in jax.tree.leaves(back)) < apart / 8
  program = jax.jit(jax.grad(forward)).lower(*args).compile()
  assert program.memory_analysis().temp_size_in_bytes < 4 * apart


def test_attend_keeps_float32_sums_of_many_tokens():
  """5,000 equal codes sum to 5,000, which bfloat16 has not."""
  codes = jnp.ones((1, 5000, 1, 2))
  value = jnp.ones((1, 5000, 1, 1), jnp.bfloat16)
  y = _hash_attention.attend(codes, value, 3.0, "consistent")
  assert y.dtype == jnp.float32
  np.testing.assert_allclose(y, 1.0, rtol=1e-6)
