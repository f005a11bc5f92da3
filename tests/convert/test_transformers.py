"""Rule sets of transformers, and attention weights without softmax."""

import copy
import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jbin
from jbin import convert, errors, models, nn, quantizers as q, schedules
from tests.convert.transformers import TOKENS, Block, Encoder

BOOL = {
  "query_quantizer": q.sign(),
  "key_quantizer": q.sign(),
  "weights_quantizer": q.ste_heaviside(edge="open"),
}


@functools.cache
def _model(**options):
  return Encoder(nnx.Rngs(0), **options)


def _rules(name, **options):
  return convert.REGISTRY.get(name)(**options)


def _bits(model, rules):
  """What is not float, by path."""
  entries = jbin.plan(model, rules, TOKENS).entries
  wide = ("32", "32x32", "32x32, 32x32", "")
  return {e.path: e.bits for e in entries if e.bits not in wide}


@pytest.mark.parametrize("name", ["bivit", "bibert", "bipft"])
def test_low_rank_estimates_stay_float(name):
  """In every set, and of an attention whose projections do not."""
  model = nnx.eval_shape(
    lambda: models.bert(
      layers=1,
      features=8,
      heads=2,
      mlp_features=8,
      vocab_size=9,
      max_length=4,
      low_rank=1,
      rngs=nnx.Rngs(0),
    )
  )
  example = jax.ShapeDtypeStruct((1, 4), jnp.int32)
  slots = {
    entry.path.removeprefix("layers/attn/"): bool(entry.slots)
    for entry in jbin.plan(model, _rules(name), example).entries
    if entry.path.startswith("layers/attn/")
  }
  assert {path for path, low in slots.items() if not low} == {
    f"residual/{part}"
    for part in ("query_main", "query_rest", "key_main", "key_rest")
  } | {"residual/value_rest"}
  assert {path for path, low in slots.items() if low} == {
    *("query", "key", "value", "out")
  }


# --- Scores as weights --------------------------------------------------------


def test_a_rule_may_leave_softmax_out():
  block, x = (
    Block(nnx.Rngs(0)),
    jax.random.normal(jax.random.key(1), (2, 5, 16)),
  )
  rule = jbin.Rule("attn", normalize="none", **BOOL)
  plan = jbin.plan(block, rule, x)
  assert "normalize: none" in str(plan).split("\n\n")[0]
  low = plan.apply(block)
  assert low.attn.attention_fn.normalize is nn.raw_scores
  query, key, value = low.attn(x, taps=True)[1]
  scores = jnp.einsum("bqhd,bkhd->bhqk", jnp.sign(query), jnp.sign(key))
  context = jnp.einsum("bhqk,bkhd->bqhd", (scores > 0).astype(x.dtype), value)
  np.testing.assert_allclose(low.attn(x), low.attn.out(context), atol=1e-5)
  soft = jbin.quantize(block, jbin.Rule("attn", **BOOL), x)
  assert soft.attn.attention_fn.normalize is None
  assert np.abs(soft.attn(x) - low.attn(x)).max() > 1e-3


def test_the_float_twin_has_softmax_again():
  block, x = Block(nnx.Rngs(0)), jnp.ones((1, 5, 16))
  low = jbin.quantize(block, jbin.Rule("attn", normalize="none", **BOOL))
  again = jbin.dequantize(low)
  assert again.attn.attention_fn is nnx.dot_product_attention
  np.testing.assert_array_equal(again(x), block(x))


def test_it_is_copied_pickled_and_compared():
  rule = jbin.Rule("attn", normalize="none", **BOOL)
  low = jbin.quantize(Block(nnx.Rngs(0)), rule)
  assert pickle.loads(pickle.dumps(rule)) == rule
  assert "normalize='none'" in str(rule)
  graphs = [
    nnx.graphdef(m)
    for m in (low, copy.deepcopy(low), pickle.loads(pickle.dumps(low)))
  ]
  assert graphs[0] == graphs[1] == graphs[2]


@pytest.mark.parametrize(
  ("fields", "text"),
  [
    ({"normalize": "softmx", **BOOL}, "did you mean softmax"),
    ({"normalize": "none"}, "scores to a weights_quantizer, and it has none"),
    ({"normalize": "none", "start": 0.5, **BOOL}, "leave start out"),
  ],
)
def test_what_makes_no_sense_is_refused(fields, text):
  with pytest.raises(errors.UserError, match=text):
    jbin.Rule(**fields)


# --- BiViT --------------------------------------------------------------------

ATTENTION = {
  "blocks/attn": "1x1, 1x1",
  **{f"blocks/attn/{n}": "1x1" for n in ("query", "key", "value", "out")},
}


@pytest.mark.parametrize(
  ("options", "mlp"),
  [({}, "32x1"), ({"mlp": "w1a1"}, "1x1"), ({"mlp": "float"}, None)],
)
def test_bivit_binarizes_attention_and_perhaps_mlps(options, mlp):
  want = dict(ATTENTION)
  if mlp:
    want |= {f"blocks/mlp/{name}": mlp for name in ("fc1", "fc2")}
  assert _bits(_model(name="blocks"), _rules("bivit", **options)) == want


def test_bivit_s_parts():
  _, first, second = _rules("bivit")
  assert first.weights_quantizer == q.sab()
  assert first.normalize == "softmax"
  assert first.kernel_quantizer == q.bivit_weight()
  assert second.input_quantizer is None
  _, plain, late = _rules(
    "bivit", attention="bool", scales="mean", mlp="w1a1", mlp_start=0.5
  )
  assert plain.weights_quantizer == q.ste_heaviside(edge="open")
  assert plain.normalize == "none"
  assert plain.kernel_quantizer == q.bivit_weight(learned=False)
  assert (plain.start, late.start) == (0.0, 0.5)
  assert late.input_quantizer == q.sign(edge="open")
  _, shared = _rules("bivit", mlp="float", beta=schedules.linear(0.2, 0.4))
  assert shared.weights_quantizer.scheduled


def test_bivit_s_mlps_become_binary_later():
  """Without another trace; attention is binary at once."""
  # Float inputs: sums of signs are often 0, whose sign rounding decides.
  model = _model(name="blocks")
  low = jbin.quantize(model, _rules("bivit", mlp_start=0.5), TOKENS)
  alone = jbin.quantize(model, _rules("bivit", mlp="float"), TOKENS)
  whole = jbin.quantize(model, _rules("bivit"), TOKENS)
  run = jax.jit(lambda m: m(TOKENS))
  for progress, same in ((0.0, alone), (0.49, alone), (0.5, whole)):
    now = schedules.set_progress(low, progress)
    np.testing.assert_allclose(run(now), same(TOKENS), atol=1e-5)
  assert run._cache_size() == 1


# --- BiBERT and BiPFT ---------------------------------------------------------

LAYERS = {
  "layers/attn": "1x1, 1x1",
  **{f"layers/attn/{n}": "1x1" for n in ("query", "key", "value", "out")},
  **{f"layers/mlp/{n}": "1x1" for n in ("fc1", "fc2")},
  "pooler": "1x1",
}


@pytest.mark.parametrize("name", ["bibert", "bipft"])
@pytest.mark.parametrize(
  ("tables", "names"),
  [
    ("words", ["words"]),
    ("all", ["words", "positions", "types"]),
    ("none", []),
  ],
)
def test_text_models(name, tables, names):
  """Heads and low-rank estimates stay float."""
  found = _bits(_model(low_rank=1), _rules(name, tables=tables))
  assert found == {**LAYERS, **dict.fromkeys(names, "1")}


def test_bibert_s_plain_baseline_sees_all_keys_alike():
  """The sign of a probability is 1: attention is a sum of all values."""
  rules = _rules("bibert", attention="softmax")
  low = jbin.quantize(_model(), rules, TOKENS)
  attention = low.layers.attn.attention_fn
  assert attention.normalize is None
  query, value = jax.random.normal(jax.random.key(0), (2, 1, 5, 2, 8))
  y = attention(query, query, value)
  total = jnp.where(value >= 0, 1.0, -1.0).sum(1, keepdims=True)
  np.testing.assert_array_equal(y, jnp.broadcast_to(total, y.shape))
  assert _rules("bibert")[-1].normalize == "none"


@pytest.mark.parametrize(
  ("name", "options"),
  [
    ("bivit", {"mlp": "w1a1"}),
    ("bivit", {"attention": "bool"}),
    ("bibert", {}),
    ("bibert", {"attention": "softmax"}),
    ("bipft", {}),
  ],
)
def test_every_part_gets_a_gradient(name, options):
  stack = "blocks" if name == "bivit" else "layers"
  model = _model(name=stack, low_rank=int(name == "bipft"))
  low = jbin.quantize(model, _rules(name, **options), TOKENS)
  if name == "bipft":
    nn.calibrate(low, TOKENS)

  @nnx.jit
  def gradients(low):
    return nnx.grad(lambda m: (m(TOKENS) ** 2).mean())(low)

  dead = [
    "/".join(map(str, path))
    for path, g in nnx.to_flat_state(gradients(low))
    if not np.asarray(g[...]).any()
  ]
  # What a sum over all keys, or an integer context, leaves without one.
  known = ("query", "key", "types", "positions")
  assert not [path for path in dead if not any(n in path for n in known)]
