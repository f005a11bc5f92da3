"""Mamba-2: parallel is recurrent, padding, caches, dtypes, what it refuses."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jbin import errors, models, nn, optimizers
from tests.models import abstract

SMALL = {"vocab_size": 11, "layers": 2, "features": 8, "head_dim": 4}
SMALL |= {"state": 5, "groups": 2, "conv_width": 3, "chunk": 8}


@functools.cache
def _state(**options):
  """Graph and state; heads forget at rates that differ."""

  @nnx.jit
  def make():
    model = models.mamba2(**{**SMALL, **options}, rngs=nnx.Rngs(0))
    mixer = model.layers.mixer
    logs, steps = jax.random.normal(jax.random.key(1), (2, 2, 4))
    mixer.A_log.set_value(0.5 * logs - 1)
    mixer.dt_bias.set_value(steps)
    return model

  return nnx.split(make())


def _model(**options):
  return nnx.merge(*_state(**options), copy=True)


@nnx.jit(static_argnames="taps")
def _run(model, tokens, **given):
  return model(tokens, **given)


def _tokens(n, length, seed=0):
  generator = np.random.default_rng(seed)
  return jnp.asarray(generator.integers(0, 11, (n, length)), jnp.int32)


def _close(got, want, tolerance=1e-5):
  np.testing.assert_allclose(got, want, rtol=0, atol=tolerance)


def _masked(lengths, width):
  return (np.arange(width)[None] < np.asarray(lengths)[:, None]).astype("i4")


# --- one model in two forms -------------------------------------------------


def test_chunks_of_any_length_are_one_model():
  tokens = _tokens(2, 10)
  want = _run(_model(), tokens)
  assert want.std() > 0.01
  _close(_run(_model(chunk=3), tokens), want)


def test_a_prompt_in_pieces():
  model, tokens = _model(), _tokens(2, 10)
  whole = _run(model, tokens)
  cache, found, at = model.init_cache(2), [], 0
  # More than a chunk of 8, none, one token.
  for length in (9, 0, 1):
    logits, cache = _run(model, tokens[:, at : at + length], cache=cache)
    assert logits.shape == (2, length, 11)
    found.append(logits)
    at += length
  _close(jnp.concatenate(found, 1), whole)
  _, same = _run(model, tokens[:, :0], cache=cache)
  for a, b in zip(cache, same, strict=True):
    np.testing.assert_array_equal(a, b)


def test_decode_over_512_tokens_with_texts_of_different_lengths():
  model, length = _model(), 512
  tokens = _tokens(3, length)
  whole = _run(model, tokens)
  # Prompts longer than many chunks, of one token, and empty.
  used = jnp.asarray([100, 1, 0])
  mask = jnp.asarray(_masked(used, 100))
  graph, state = nnx.split(model)

  @jax.jit
  def decode(state, tokens, used, mask):
    model = nnx.merge(graph, state)
    prompt = jnp.where(mask > 0, tokens[:, :100], 7)
    first, cache = model(prompt, token_mask=mask, cache=model.init_cache(3))

    def one(carry, _):
      model = nnx.merge(graph, state, copy=True)
      at, cache = carry
      token = jnp.take_along_axis(tokens, at[:, None] % length, 1)
      logits, cache = model(token, cache=cache)
      return (at + 1, cache), (at, logits[:, 0])

    _, found = jax.lax.scan(one, (used, cache), None, length)
    return first, *found

  first, at, logits = decode(state, tokens, used, mask)
  for row, count in enumerate(used):
    _close(first[row, :count], whole[row, :count])
    rest = length - int(count)
    np.testing.assert_array_equal(at[:rest, row], np.arange(count, length))
    _close(logits[:rest, row], whole[row, count:])


def test_padding_changes_nothing_before_it():
  model, tokens = _model(), _tokens(2, 10)
  mask = jnp.asarray(_masked([10, 6], 10))
  want = np.asarray(_run(model, tokens))
  caches = []
  for padding in (3, 4):
    other = jnp.where(mask > 0, tokens, padding)
    got, cache = _run(model, other, token_mask=mask, cache=model.init_cache(2))
    assert np.isfinite(got).all()
    _close(got[0], want[0])
    _close(got[1, :6], want[1, :6])
    caches.append(cache)
  for one, other in zip(*caches, strict=True):
    np.testing.assert_array_equal(one, other)
  # One token, of which a text has none: its cache stays.
  mask = jnp.asarray([[1], [0]])
  _, later = _run(model, tokens[:, :1], token_mask=mask, cache=cache)
  for new, old in zip(later, cache, strict=True):
    np.testing.assert_array_equal(new[:, 1], old[:, 1])
    assert np.abs(new[:, 0] - old[:, 0]).max() > 1e-3


def test_it_looks_back_only():
  model, tokens = _model(), _tokens(2, 10)
  ours = np.asarray(_run(model, tokens))
  theirs = np.asarray(_run(model, tokens.at[:, 6:].set(0)))
  _close(ours[:, :6], theirs[:, :6])
  assert np.abs(ours - theirs)[:, 6:].max() > 1e-3


def test_both_forms_keep_to_the_limits_of_dt():
  model, tokens = _model(dt_limit=(0.3, 0.4)), _tokens(2, 10)
  whole = _run(model, tokens)
  assert np.abs(whole - _run(_model(), tokens)).max() > 1e-3
  cache, found = model.init_cache(2), []
  for i in range(10):
    logits, cache = _run(model, tokens[:, i : i + 1], cache=cache)
    found.append(logits)
  _close(jnp.concatenate(found, 1), whole)


# --- what it is made of -----------------------------------------------------


def test_taps_are_the_residual_stream():
  model, tokens = _model(), _tokens(2, 10)
  found = _run(model, tokens, taps=True)
  assert found.hidden.shape == (3, 2, 10, 8)
  assert found.query is found.key is found.value is None
  np.testing.assert_array_equal(found.hidden[0], model.words(tokens))
  ends = nnx.jit(lambda model, x: model.words.attend(model.norm(x)))
  _close(found.logits, ends(model, found.hidden[-1]))
  _close(found.logits, _run(model, tokens))
  again, _ = _run(model, tokens, taps=True, cache=model.init_cache(2))
  _close(again.hidden, found.hidden)


def test_the_sizes_are_those_of_the_released_models():
  sizes = {
    "mamba2_130m": 128_989_632,
    "mamba2_780m": 780_161_280,
    "mamba2_1_3b": 1_343_757_312,
    "mamba2_2_7b": 2_702_599_680,
  }
  for name, count in sizes.items():
    assert abstract.count(abstract.build(name)) == count, name
  head = 768 * 50288
  untied = abstract.build("mamba2_130m", tied=False)
  assert abstract.count(untied) == sizes["mamba2_130m"] + head


def test_it_starts_as_the_authors_code():
  @nnx.jit
  def make():
    return models.mamba2(
      100, layers=4, features=64, head_dim=4, rngs=nnx.Rngs(0)
    )

  model = make()
  mixer = model.layers.mixer

  def spread(array, edge):
    array = np.asarray(array[...])
    assert np.abs(array).max() <= edge * (1 + 1e-6)
    np.testing.assert_allclose(array.std(), edge / np.sqrt(3), rtol=0.05)

  spread(mixer.in_proj.kernel, 1 / np.sqrt(64))
  spread(mixer.out_proj.kernel, 1 / np.sqrt(128) / np.sqrt(4))
  spread(mixer.conv.kernel, 1 / np.sqrt(4))
  spread(mixer.conv.bias, 1 / np.sqrt(4))
  np.testing.assert_allclose(model.words.embedding[...].std(), 0.02, rtol=0.05)
  dt = np.asarray(jax.nn.softplus(mixer.dt_bias[...]))
  assert 1e-3 * 0.999 <= dt.min() < 3e-3
  assert 3e-2 < dt.max() <= 1e-1 * 1.001
  a = np.exp(mixer.A_log[...])
  assert 1 <= a.min() < 3
  assert 14 < a.max() <= 16
  assert len(np.unique(a)) == a.size  # each layer draws apart
  np.testing.assert_array_equal(mixer.D[...], 1)


def test_what_weight_decay_leaves_alone():
  mask = optimizers.decay_mask(_model(), "kernels")
  flat = jax.tree_util.tree_leaves_with_path(mask)
  reached = {
    "/".join(str(getattr(key, "key", key)) for key in path)
    for path, kept in flat
    if kept
  }
  mixer = "layers/mixer"
  assert reached == {
    "words/embedding",
    *(f"{mixer}/{name}/kernel" for name in ("in_proj", "conv", "out_proj")),
  }


def test_wide_axes_have_names():
  model = abstract.build("mamba2_130m", tied=False)
  state = dict(nnx.to_flat_state(nnx.state(model, nnx.Param)))
  found = {
    "/".join(path): nn.axis_names(variable) for path, variable in state.items()
  }
  named = {path: axes for path, axes in found.items() if axes}
  assert named == {
    "words/embedding": ("vocab", "embed"),
    "layers/mixer/in_proj/kernel": (None, "embed", "inner"),
    "layers/mixer/norm/scale": (None, "inner"),
    "layers/mixer/out_proj/kernel": (None, "inner", "embed"),
    "head/kernel": ("embed", "vocab"),
  }


def test_bfloat16_keeps_states_and_stream_in_float32():
  tokens = _tokens(2, 10)
  wide, low = _model(), _model(dtype=jnp.bfloat16)
  assert abstract.parameters(wide) == abstract.parameters(low)
  out, cache = _run(low, tokens, taps=True, cache=low.init_cache(2))
  assert out.logits.dtype == jnp.bfloat16
  assert cache.inputs.dtype == jnp.bfloat16
  assert out.hidden.dtype == cache.state.dtype == jnp.float32
  want, exact = _run(wide, tokens, taps=True, cache=wide.init_cache(2))
  _close(out.logits.astype("f4"), want.logits, 2e-2)
  _close(cache.state, exact.state, 1e-1)
  assert low.init_cache(2, dtype=jnp.float32).inputs.dtype == jnp.float32


def test_blocks_that_are_computed_again():
  tokens = _tokens(2, 10)

  @nnx.jit
  def pull(model):
    loss = lambda model: jnp.mean(jnp.square(model(tokens)))
    return nnx.grad(loss)(model)

  want = jax.tree.leaves(pull(_model()))
  got = jax.tree.leaves(pull(_model(remat="full")))
  for a, b in zip(got, want, strict=True):
    _close(a, b, 1e-7)


def test_all_layers_are_compiled_as_one():
  def lines(layers):
    model = abstract.build("mamba2", **{**SMALL, "layers": layers})
    graph, state = nnx.split(model)
    run = lambda state, tokens: nnx.merge(graph, state)(tokens)
    text = jax.jit(run).lower(state, _tokens(2, 10)).as_text()
    return text.count("\n")

  assert lines(2) == lines(50)


BAD = {
  r"2 \* 8 = 16 .* head_dim = 3; take": {"head_dim": 3},
  r"4 heads .* groups = 3; take": {"groups": 3},
  "state is 0; take 1 or more": {"state": 0},
  "chunk is 0; take 1 or more": {"chunk": 0},
  "conv_width is 0; take": {"conv_width": 0},
  r"dt_limit is \(1.0, 0.5\); take": {"dt_limit": (1.0, 0.5)},
  "a stack of 0 blocks": {"layers": 0},
}


@pytest.mark.parametrize("why", BAD)
def test_sizes_that_cannot_be(why):
  with pytest.raises(errors.UserError, match=why):
    models.mamba2(**{**SMALL, **BAD[why]}, rngs=nnx.Rngs(0))


def test_padding_in_front_is_refused():
  """Before a program runs; in one its row is NaN, and no other."""
  tokens, mask = _tokens(2, 6), _masked([6, 6], 6)
  mask[0, :2] = 0
  with pytest.raises(errors.UserError, match="pad on the right"):
    _model()(tokens, token_mask=mask)
  scores = np.asarray(_run(_model(), tokens, token_mask=jnp.asarray(mask)))
  assert np.isnan(scores[0]).all()
  assert np.isfinite(scores[1]).all()


CALLS = {
  "2 layers and 3 rows; the model has 2 layers, and 2": {"cache": (3, 2)},
  "of 1 layers and 2 rows": {"cache": (2, 1)},
  "token_mask has the shape (2, 5), and the tokens (2, 6)": {"mask": (2, 5)},
  "of the shape (batch, length), got (6,)": {"tokens": (6,)},
}


@pytest.mark.parametrize("why", CALLS)
def test_calls_that_do_not_fit(why):
  model, given = _model(), CALLS[why]
  tokens = jnp.zeros(given.get("tokens", (2, 6)), jnp.int32)
  more = {}
  if "cache" in given:
    rows, layers = given["cache"]
    more["cache"] = _model(layers=layers).init_cache(rows)
  if "mask" in given:
    more["token_mask"] = jnp.ones(given["mask"], jnp.int32)
  with pytest.raises(errors.UserError, match=re.escape(why)):
    model(tokens, **more)
