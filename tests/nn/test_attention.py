"""Attention equals Flax without quantizers; with them, its formula."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jbin import cost, errors, nn, quantizers
from tests import programs
from tests.nn import layers

BF16 = jnp.bfloat16
QUERY = quantizers.xnor((0, 2))  # of each example and head
KEY = quantizers.absmax(8, (0, 1))
VALUE = quantizers.xnor()
ROWS = quantizers.absmax(8, (0, 1, 2))  # a scale for each query
UNSIGNED = quantizers.dorefa_activation(4)
SIGN = quantizers.sign()
FOUR = {
  "query_quantizer": QUERY,
  "key_quantizer": KEY,
  "weights_quantizer": UNSIGNED,
  "value_quantizer": VALUE,
}
DROPOUT = {
  "dropout_rate": 0.4,
  "dropout_rng": jax.random.key(3),
  "deterministic": False,
}


def _random(shape, seed, dtype=jnp.float32):
  x = np.random.default_rng(seed).normal(size=shape)
  return jnp.asarray(x, jnp.float32).astype(dtype)


def _arrays(batch=(2,), heads=4, groups=4, value=6, dtype=jnp.float32):
  """Query, key and value of 5 queries and 7 keys."""
  shapes = ((5, heads, 6), (7, groups, 6), (7, groups, value))
  return [_random((*batch, *s), i, dtype) for i, s in enumerate(shapes)]


MASK = _random((2, 1, 5, 7), 9) > -0.5
BIAS = _random((1, 4, 5, 7), 8)
# Shapes, then what the call is told.
CALLS = {
  "plain": ({}, {}),
  "no batch axis": ({"batch": ()}, {}),
  "two batch axes": ({"batch": (2, 3)}, {"mask": jnp.stack([MASK] * 3, 1)}),
  "mask": ({}, {"mask": MASK}),
  "mask of numbers": ({}, {"mask": MASK.astype(jnp.float32)}),
  "bias": ({}, {"bias": BIAS}),
  "causal": ({}, {"is_causal": True}),
  "all of them": ({}, {"bias": BIAS, "mask": MASK, "is_causal": True}),
  "grouped heads": ({"groups": 2}, {"mask": MASK}),
  "one group": ({"groups": 1}, {}),
  "other values": ({"value": 3}, {"mask": MASK}),
  "dropout": ({}, DROPOUT),
  "dropout of each": ({}, {**DROPOUT, "broadcast_dropout": False}),
  "deterministic": ({}, {**DROPOUT, "deterministic": True}),
  "bfloat16": ({"dtype": BF16}, {"mask": MASK}),
  "to bfloat16": ({}, {"dtype": BF16}),
}
# jax.nn.dot_product_attention wants values as long as keys.
FLAX = {name: call for name, call in CALLS.items() if name != "other values"}


def _pulled(attend, arrays):
  y, pull = jax.vjp(attend, *arrays)
  g = jnp.sin(jnp.arange(y.size)).reshape(y.shape).astype(y.dtype)
  return y, *pull(g)


@pytest.mark.parametrize(("shapes", "told"), FLAX.values(), ids=FLAX)
def test_without_quantizers_it_is_flax(shapes, told):
  arrays = _arrays(**shapes)
  layer = nn.DotProductAttention(6)
  assert not layers.state_of(layer)
  texts = []
  for attend in (layer, nnx.dot_product_attention):
    run = functools.partial(_pulled, lambda *a, f=attend: f(*a, **told))
    texts.append(str(jax.make_jaxpr(lambda *a, run=run: run(a))(*arrays)))
  assert texts[0] == texts[1]


def _formula(slots, query, key, value, normalize=jax.nn.softmax, **told):
  """Written out, of the quantizers' values."""
  dtype = told.get("dtype") or query.dtype
  query, key, value = (a.astype(dtype) for a in (query, key, value))

  def quantized(name, x):
    spec = slots.get(f"{name}_quantizer")
    if spec is None:
      return x
    return spec(x.reshape(-1, *x.shape[-3:])).value.reshape(x.shape)

  times = query.shape[-2] // key.shape[-2]
  query, key, value = (
    quantized(*pair)
    for pair in (("query", query), ("key", key), ("value", value))
  )
  key, value = (jnp.repeat(a, times, -2) for a in (key, value))
  scores = jnp.einsum("...qhd,...khd->...hqk", query, key).astype(jnp.float32)
  scores /= math.sqrt(query.shape[-1])
  if "bias" in told:
    scores += jnp.broadcast_to(told["bias"], scores.shape)
  allowed = jnp.ones(scores.shape, bool)
  if "mask" in told:
    allowed &= jnp.broadcast_to(told["mask"] != 0, scores.shape)
  if told.get("is_causal"):
    ones = jnp.ones(scores.shape[-2:], bool)
    allowed &= jnp.broadcast_to(jnp.tril(ones), scores.shape)
  weights = normalize(jnp.where(allowed, scores, -1e30)).astype(dtype)
  if "dropout_rate" in told and not told["deterministic"]:
    shape = weights.shape
    if told.get("broadcast_dropout", True):
      shape = (*(1,) * (weights.ndim - 2), *shape[-2:])
    keep = jax.random.bernoulli(told["dropout_rng"], 0.6, shape)
    weights *= keep.astype(dtype) / jnp.asarray(0.6, dtype)
  weights = jnp.where(allowed, quantized("weights", weights), 0)
  return jnp.einsum("...hqk,...khd->...qhd", weights, value)


def _check(slots, shapes, told, **options):
  arrays = _arrays(**shapes)
  dim = shapes.get("value")
  layer = nn.DotProductAttention(6, value_dim=dim, **slots, **options)
  formula = functools.partial(_formula, slots, **options, **told)

  @jax.jit
  def both(*arrays):
    mine = _pulled(lambda *a: layer(*a, **told), arrays)
    return mine, _pulled(formula, arrays)

  narrow = BF16 in (shapes.get("dtype"), told.get("dtype"))
  layers.close(*both(*arrays), 0.05 if narrow else 1e-5)


@pytest.mark.parametrize(("shapes", "told"), CALLS.values(), ids=CALLS)
def test_with_quantizers_it_is_the_formula(shapes, told):
  """Output and the gradients of query, key and value."""
  slots = FOUR
  if BF16 in (shapes.get("dtype"), told.get("dtype")):
    # Scores round differently; with 15 levels some probabilities would, too.
    slots = {**FOUR, "weights_quantizer": quantizers.dorefa_activation(8)}
  _check(slots, shapes, told)


SOME = [
  {"query_quantizer": QUERY},
  {"key_quantizer": SIGN, "query_quantizer": SIGN},
  {"weights_quantizer": ROWS},
  {"weights_quantizer": quantizers.sign(), "value_quantizer": SIGN},
  {"weights_quantizer": quantizers.minmax(2)},
  {"value_quantizer": KEY},
  {},
]


@pytest.mark.parametrize("groups", [4, 2])
@pytest.mark.parametrize("slots", SOME, ids=str)
def test_some_quantizers(slots, groups):
  """With a mask, and with another way from scores to probabilities."""
  told = {"mask": MASK, "bias": BIAS}
  _check(slots, {"groups": groups}, told, normalize=jax.nn.sigmoid)


def test_scores_may_be_quantized_themselves():
  """Without a softmax: a bit says whether the score is positive."""
  bit = quantizers.dorefa_activation(1)
  slots = {"query_quantizer": SIGN, "weights_quantizer": bit}
  told = {"mask": MASK, "is_causal": True}
  _check(slots, {}, told, normalize=lambda scores: scores)


class Sharper(nnx.Module):
  """A learned temperature."""

  def __init__(self):
    self.factor = nnx.Param(jnp.asarray(2.0))

  def __call__(self, scores):
    return jax.nn.softmax(self.factor[...] * scores)


def test_normalize_may_be_a_module():
  layer = nn.DotProductAttention(6, normalize=Sharper())
  assert set(layers.state_of(layer)) == {("normalize", "factor")}
  query, key, value = _arrays()
  want = nnx.dot_product_attention(2 * query, key, value)
  np.testing.assert_allclose(layer(query, key, value), want, rtol=1e-4)


@pytest.mark.parametrize(
  "weights",
  [SIGN, UNSIGNED, quantizers.minmax(2, axes=(0, 1, 2)), ROWS],
  ids=str,
)
def test_what_a_mask_forbids_is_not_seen(weights):
  """Neither forward nor backward, whatever the quantizer makes of 0."""
  layer = nn.DotProductAttention(6, weights_quantizer=weights)
  query, key, value = _arrays()

  def attend(key, value):
    return layer(query, key, value, is_causal=True)[:, 2]

  y, pull = jax.vjp(attend, key, value)
  later = attend(key.at[:, 3:].add(5.0), value.at[:, 3:].set(1e3))
  np.testing.assert_array_equal(y, later)
  for gradient in pull(jnp.ones_like(y)):
    assert (gradient[:, 3:] == 0).all()
    assert (gradient[:, :3] != 0).any()


@pytest.mark.parametrize(
  ("weights", "masked", "dtypes"),
  [
    (UNSIGNED, True, "codes"),
    (ROWS, True, "codes"),
    (SIGN, False, "codes"),
    (SIGN, True, "values"),
  ],
  ids=["unsigned", "scaled", "signs", "masked signs"],
)
def test_products_are_of_codes(weights, masked, dtypes):
  """A float's last bits never reach a product of codes."""
  slots = {**FOUR, "weights_quantizer": weights}
  layer = nn.DotProductAttention(6, **slots)
  told = {"mask": MASK} if masked else {}
  called = [
    equation.params["call_jaxpr"].jaxpr
    for equation in programs.equations(lambda *a: layer(*a, **told), *_arrays())
    if equation.primitive.name == "custom_vjp_call"
    and "dot_general" in str(equation.params["call_jaxpr"])
  ]
  assert len(called) == 2
  narrow = [v.aval.dtype for v in called[1].invars].count(jnp.dtype("int8"))
  assert narrow == (2 if dtypes == "codes" else 1)


def test_learned_and_measured_variables():
  """Of queries, keys and values: one for each channel of a head."""
  measured = quantizers.ema_bounds(4)
  layer = nn.DotProductAttention(
    6,
    value_dim=3,
    query_quantizer=measured,
    value_quantizer=measured,
    weights_quantizer=quantizers.ema_bounds(4, per_channel=False),
  )
  sizes = {
    name: getattr(layer, f"{name}_quantizer").statistics["bounds"].shape
    for name in ("query", "value", "weights")
  }
  assert sizes == {"query": (6,), "value": (3,), "weights": (1,)}
  layer(*_arrays(value=3))
  for name in sizes:
    bounds = getattr(layer, f"{name}_quantizer").statistics["bounds"][...]
    assert (bounds > 0).all(), name


def test_the_cost_report_sees_both_products():
  shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in _arrays((1,))]
  layer = nn.DotProductAttention(6, **FOUR)
  report = cost.count(layer, *shapes)
  each = 4 * 5 * 7 * 6
  assert report.macs == {(1, 8): each, (4, 1): each}
  assert not report.flagged
  report = cost.count(lambda *a: layer(*a, mask=MASK[:1]), *shapes)
  assert report.macs == {(1, 8): each, (4, 1): each}


ERRORS = {
  "a learned step for each key": (
    {"weights_quantizer": quantizers.ema_bounds(4)},
    {},
    r"weights_quantizer ema_bounds\(bits=4\) learns or measures something for ",
  ),
  "not a quantizer": (
    {"weights_quantizer": "sign"},
    {},
    "expected a quantizer such as",
  ),
  "other head_dim": ({"head_dim": 5}, {}, r"heads, 5\), key .* got \(2, 5, 4"),
  "other values": ({}, {"value": 3}, r"kv heads, 6\), kv heads a divisor"),
  "other heads": ({}, {"groups": 3}, "kv heads a divisor of heads; got"),
}


@pytest.mark.parametrize(
  ("options", "shapes", "text"), ERRORS.values(), ids=ERRORS
)
def test_errors(options, shapes, text):
  with pytest.raises(errors.UserError, match=text):
    nn.DotProductAttention(
      **{"head_dim": 6, "query_quantizer": SIGN, **options}
    )(*_arrays(**shapes))
