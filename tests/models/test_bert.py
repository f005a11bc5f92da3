"""BERT: what it has, what taps give, padding, dropout, its heads."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jbin
from jbin import convert, errors, models, nn, views

SMALL = {
  "layers": 2,
  "features": 12,
  "heads": 3,
  "mlp_features": 20,
  "vocab_size": 11,
  "max_length": 6,
  "dropout": 0.5,
}
TOKENS = jnp.asarray([[3, 1, 4, 0, 0], [5, 9, 2, 6, 5]])
SEGMENTS = jnp.asarray([[0, 0, 1, 0, 0], [0, 1, 1, 1, 1]])
MASK = jnp.asarray([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
INPUTS = (TOKENS, SEGMENTS, MASK)


@functools.cache
def _state(**options):
  """Graph and state; made once for each set of options."""
  return nnx.split(models.bert(3, **{**SMALL, **options}, rngs=nnx.Rngs(0)))


def _model(**options):
  return nnx.merge(*_state(**options), copy=True)


@nnx.jit(static_argnames="taps")
def _run(model, *inputs, taps=False):
  return model(*inputs, taps=taps)


def _evaluated(model, *inputs, **options):
  return _run(views.evaluation(model), *inputs, **options)


def _abstract(factory, *args, **options):
  return nnx.eval_shape(lambda: factory(*args, **options, rngs=nnx.Rngs(0)))


def _count(model):
  leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
  return sum(leaf.size for leaf in leaves)


def test_base_has_the_parameters_of_bert_base():
  assert _count(_abstract(models.bert_base, 0)) == 109_482_240
  assert _count(_abstract(models.bert_base)) == 109_482_240 + 2 * 769
  made = _abstract(models.bert_base, pretraining=True)
  heads = 768 * 769 + 2 * 768 + 30_522 + 2 * 769
  assert _count(made) == 109_482_240 + heads
  # BiPFT's: five maps a layer, and a norm in the pooler.
  made = _abstract(models.bert_base, 0, low_rank=1, pooler_residual=True)
  assert _count(made) == 109_482_240 + 12 * 5 * 769 + 2 * 768


def test_taps_show_what_the_layers_saw():
  model = _model()
  plain = _evaluated(model, *INPUTS)
  found = _evaluated(model, *INPUTS, taps=True)
  np.testing.assert_allclose(found.logits, plain, rtol=1e-6)
  assert found.hidden.shape == (3, 2, 5, 12)
  assert found.token_logits is None

  @nnx.jit
  def ends(model, last):
    return model.embed(*INPUTS[:2]), model.head(model.pool(last))

  first, logits = ends(views.evaluation(model), found.hidden[-1])
  np.testing.assert_allclose(found.hidden[0], first, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(logits, plain, rtol=1e-4, atol=1e-6)
  for name in ("query", "key", "value"):
    kernels = np.asarray(getattr(model.layers.attn, name).kernel[...])
    want = np.einsum("lbtf,lfhd->lbthd", found.hidden[:-1], kernels)
    np.testing.assert_allclose(getattr(found, name), want, rtol=1e-4, atol=1e-6)


def test_padding_changes_nothing_and_all_are_of_the_first_text():
  model = _model()
  want = _evaluated(model, *INPUTS)
  other = jnp.where(MASK > 0, TOKENS, 7)
  got = _evaluated(model, other, SEGMENTS, MASK)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)
  ones = jnp.ones_like(TOKENS)
  whole = _evaluated(model, TOKENS, 0 * ones, ones)
  assert not np.allclose(whole, want)
  alone = _evaluated(model, TOKENS)
  np.testing.assert_allclose(alone, whole, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("padding", [0, 5, None])
def test_the_lookup_of_padding_has_no_gradient(padding):
  model = _model()
  model.padding_id = padding
  gradients = nnx.grad(lambda model: model.look_up(TOKENS).sum())(model)
  counts = np.bincount(TOKENS.ravel(), minlength=SMALL["vocab_size"])
  if padding is not None:
    counts[padding] = 0
  table = gradients["words"]["embedding"][...]
  np.testing.assert_array_equal(table[:, 0], counts)


def test_dropout_is_there_in_training_alone():
  model = _model()
  first, second = (np.asarray(_run(model, *INPUTS)) for _ in range(2))
  assert np.abs(first - second).max() > 1e-3
  one, other = (np.asarray(_evaluated(model, *INPUTS)) for _ in range(2))
  np.testing.assert_array_equal(one, other)
  # Layers draw apart, and each probability for itself.
  attn = model.layers.attn
  assert not attn.broadcast_dropout
  keys = np.asarray(jax.random.key_data(attn.rngs.key[...]))
  assert len(np.unique(keys, axis=0)) == SMALL["layers"]
  without = _abstract(models.bert, **{**SMALL, "dropout": 0.0})
  assert not nnx.state(without, nnx.RngState)


def test_the_head_of_words_shares_the_table():
  model = _model(pretraining=True)
  plain = _evaluated(model, *INPUTS)
  assert plain._fields == ("logits", "token_logits")
  found = _evaluated(model, *INPUTS, taps=True)
  for name in plain._fields:
    pair = getattr(plain, name), getattr(found, name)
    np.testing.assert_allclose(*pair, rtol=1e-5, atol=1e-6)
  head, words = model.token_head, model.words
  last = found.hidden[-1]
  for name, act in (
    ("gelu", lambda x: jax.nn.gelu(x, False)),
    ("relu", jax.nn.relu),
  ):
    head.activation = name
    x = np.asarray(head.norm(act(head.dense(last))))
    want = x @ np.asarray(words.embedding[...]).T
    got = head(last, words)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
    if name == "gelu":
      np.testing.assert_allclose(found.token_logits, got, rtol=1e-4, atol=1e-6)
  # Of a binary table the floats are scored.
  low = jbin.quantize(model, convert.REGISTRY.get("bibert")())
  np.testing.assert_array_equal(low.token_head(last, low.words), got)


def test_a_low_bit_model_learns_in_half_precision():
  model = _model(
    low_rank=1, pooler_residual=True, dropout=0.0, dtype=jnp.bfloat16
  )
  low = jbin.quantize(model, convert.REGISTRY.get("bipft")())
  nn.calibrate(low, *INPUTS)
  alpha = low.layers.attn.query.input_quantizer.learned["alpha"][...]
  assert len(np.unique(np.asarray(alpha))) == SMALL["layers"]

  def loss(model):
    logits = model(*INPUTS)
    return jnp.square(logits.astype(jnp.float32)).mean(), logits

  gradients, logits = nnx.jit(nnx.grad(loss, has_aux=True))(low)
  assert logits.dtype == jnp.bfloat16
  flat = dict(nnx.to_flat_state(gradients))
  for path, variable in flat.items():
    found = np.asarray(variable[...])
    assert found.dtype == np.float32
    assert np.isfinite(found).all(), path
  # At the start no probability of five keys is above half its scale, so that
  # values are not learned from yet.
  for part in ("query", "key", "out"):
    assert np.abs(flat["layers", "attn", part, "kernel"][...]).max() > 0


def test_errors():
  model = _abstract(models.bert, **SMALL)
  words = r"for 6 tokens, got 7.*max_length=7"
  with pytest.raises(errors.UserError, match=words):
    model(jnp.zeros((1, 7), jnp.int32))
  with pytest.raises(errors.UserError, match="5 heads cannot have 12 features"):
    _abstract(models.bert, **{**SMALL, "heads": 5})
  with pytest.raises(errors.UserError, match="token_activation 'geluu'"):
    _abstract(models.bert, **SMALL, pretraining=True, token_activation="geluu")
