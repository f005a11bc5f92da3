"""Llama and its kin, OPT: caches, padding, taps, groups, what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jbin import errors, models, nn
from jbin.models import _causal
from tests.models import abstract

SIZES = {"layers": 2, "features": 16, "heads": 4, "mlp_features": 24}
SIZES |= {"vocab_size": 31, "max_length": 64}
NETS = {
  "llama": {"kv_heads": 2},
  "qwen2": {"qkv_bias": True, "tied": True},
  "qwen3": {"qk_norm": True, "head_dim": 6, "rope_base": 50.0},
  "bitnet": {"sub_norms": True, "activation": "relu2", "kv_heads": 1},
  "opt": {},
}
TOKENS = jax.random.randint(jax.random.key(1), (3, 64), 0, 31)
every_net = pytest.mark.parametrize("name", NETS)
FEW = TOKENS[:, :12]
both = pytest.mark.parametrize("name", ["llama", "opt"])


def _make(name, **options):
  factory = models.opt if name == "opt" else models.llama
  sizes = {**SIZES, **NETS[name], **options}
  return functools.partial(factory, **sizes)


@functools.cache
def _state(name, **options):
  """Graph, and numbers that no part of a model leaves as they are."""
  make = _make(name, **options)
  graph, state = nnx.split(nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0))))
  generator = np.random.default_rng(0)

  def numbers(leaf):
    array = generator.normal(0, 0.25, leaf.shape)
    return jnp.asarray(array, jnp.float32)

  return graph, jax.tree.map(numbers, state)


def _model(name, **options):
  return nnx.merge(*_state(name, **options), copy=True)


@nnx.jit(static_argnames="taps")
def _run(model, tokens, **options):
  return model(tokens, **options)


def _close(got, want, atol=1e-5):
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=atol)


# --- Caches -------------------------------------------------------------------


@pytest.mark.parametrize(
  ("name", "length"), [*((name, 64) for name in NETS), ("llama", 512)]
)
def test_token_by_token_is_all_at_once(name, length):
  model = _model(name)
  tokens = jnp.tile(TOKENS[:2], (1, length // 64))
  want = np.asarray(_run(model, tokens))
  assert np.abs(want).max() > 0.5
  cache, found = model.init_cache(2, length), []
  for i in range(length):
    logits, cache = _run(model, tokens[:, i : i + 1], cache=cache)
    found.append(logits)
  _close(np.concatenate(found, 1), want)
  np.testing.assert_array_equal(cache.used, [length] * 2)


@both
def test_rows_go_on_after_their_own_tokens(name):
  """Pieces of three texts, one of them empty at first, and padding."""
  model, tokens = _model(name), np.asarray(FEW)
  want = np.asarray(_run(model, FEW))
  cache = model.init_cache(3, 11)
  used = np.zeros(3, int)
  for counts in ((3, 5, 0), (0, 0, 0), (4, 1, 5), (4, 5, 5)):
    piece = np.full((3, 5), 7)  # what padding is does not matter
    for row, (at, count) in enumerate(zip(used, counts, strict=True)):
      piece[row, :count] = tokens[row, at : at + count]
    mask = jnp.arange(5)[None] < jnp.asarray(counts)[:, None]
    logits, cache = _run(
      model, jnp.asarray(piece), token_mask=mask, cache=cache
    )
    assert np.isfinite(logits).all()
    for row, (at, count) in enumerate(zip(used, counts, strict=True)):
      _close(logits[row, :count], want[row, at : at + count])
    used += counts
    np.testing.assert_array_equal(cache.used, used)


def test_nothing_and_one_token():
  model = _model("llama")
  logits, cache = _run(model, FEW, cache=model.init_cache(3, 13))
  nothing, same = _run(model, TOKENS[:, :0], cache=cache)
  assert nothing.shape == (3, 0, 31)
  jax.tree.map(np.testing.assert_array_equal, same, cache)
  assert _run(model, TOKENS[:, :0]).shape == (3, 0, 31)
  _close(_run(model, TOKENS[:, :1]), logits[:, :1])


@both
def test_padding_on_the_right_changes_nothing(name):
  model = _model(name)
  mask = jnp.arange(12)[None] < jnp.asarray([12, 3, 0])[:, None]
  want = _run(model, FEW)
  got = _run(model, jnp.where(mask, FEW, 9), token_mask=mask)
  assert np.isfinite(got).all()
  _close(got[mask], want[mask])


def test_logits_past_the_end_of_a_cache_are_nan():
  """Compiled programs do not know how much is used."""
  model = _model("llama")
  _, cache = _run(model, FEW, cache=model.init_cache(3, 13))
  mask = jnp.asarray([[1, 1], [1, 0], [0, 0]])
  logits, _ = _run(model, TOKENS[:, 12:14], token_mask=mask, cache=cache)
  lost = np.isnan(logits).all(-1)
  np.testing.assert_array_equal(lost, [[0, 1], [0, 0], [0, 0]])
  assert not np.isnan(logits[~lost]).any()


# --- Attention ----------------------------------------------------------------


@every_net
def test_a_token_changes_nothing_before_it(name):
  model = _model(name)
  ours = np.asarray(_run(model, FEW))
  theirs = np.asarray(_run(model, FEW.at[:, 6].set(30 - FEW[:, 6])))
  _close(ours[:, :6], theirs[:, :6], 1e-6)
  assert np.abs(ours - theirs)[:, 6:].max() > 0.01


def test_attention_is_what_its_formula_says():
  """Rotations as products of complex numbers; a head of keys for two."""
  generator = np.random.default_rng(0)
  q, k, v = (generator.normal(size=(2, 5, h, 6)) for h in (4, 2, 2))
  angle = np.arange(5)[:, None] * 10.0 ** -np.arange(3.0)
  rotation = [f(angle)[None, :, None] for f in (np.cos, np.sin)]
  seen = np.tril(np.ones((5, 5), bool))

  @jax.jit
  def attend(q, k, v):
    q, k = (_causal.rotated(x, rotation) for x in (q, k))
    return _causal.attend(q, k, v, jnp.asarray(seen[None]))

  found = attend(*(jnp.asarray(x, jnp.float32) for x in (q, k, v)))
  turn = np.exp(1j * angle)[None, :, None]
  q, k = ((x[..., :3] + 1j * x[..., 3:]) * turn for x in (q, k))
  k, v = k.repeat(2, 2), v.repeat(2, 2)
  scores = np.einsum("bnhd,bkhd->bhnk", q, k.conj()).real / np.sqrt(6)
  weights = np.where(seen, np.exp(scores), 0)
  weights /= weights.sum(-1, keepdims=True)
  want = np.einsum("bhnk,bkhd->bnhd", weights, v).reshape(2, 5, 24)
  _close(found, want)


def test_shared_keys_are_repeated_ones():
  few, many = _model("llama"), _model("llama", kv_heads=4)
  state = nnx.to_pure_dict(nnx.state(few))
  for name in ("key", "value"):
    kernel = state["layers"]["attn"][name]["kernel"]
    split = jnp.reshape(kernel, (2, 16, 2, 4))
    wide = jnp.reshape(jnp.repeat(split, 2, 2), (2, 16, 16))
    state["layers"]["attn"][name]["kernel"] = wide
  nnx.update(many, state)
  _close(_run(many, FEW), _run(few, FEW))


# --- Taps, gradients, dtypes --------------------------------------------------


def test_taps_show_what_the_layers_saw():
  model = _model("qwen3")
  plain = _run(model, FEW)
  found = _run(model, FEW, taps=True)
  _close(found.logits, plain)
  assert found.hidden.shape == (3, 3, 12, 16)
  assert found.token_logits is None
  _close(found.hidden[0], model.embed(FEW, jnp.arange(12)[None]))
  _close(model.score(found.hidden[-1]), plain)
  heads = model.layers.attn.head_dim
  for i, layer in enumerate(nn.members(model.layers)):
    x = layer.norm1(found.hidden[i])
    for part in ("query", "key", "value"):
      want = jnp.reshape(getattr(layer.attn, part)(x), (3, 12, -1, heads))
      _close(getattr(found, part)[i], want)
  cache = model.init_cache(3, 12)
  kept, cache = _run(model, FEW, cache=cache, taps=True)
  jax.tree.map(_close, kept, found)
  _close(cache.v, found.value)


def test_what_is_computed_again_is_the_same():
  @nnx.jit
  def gradients(model):
    def loss(model):
      return jnp.square(model(FEW)).mean()

    return nnx.grad(loss)(model)

  want = gradients(_model("llama"))
  assert all(np.abs(leaf).max() > 1e-7 for leaf in jax.tree.leaves(want))
  for remat in ("full", "dots"):
    got = gradients(_model("llama", remat=remat))
    jax.tree.map(_close, nnx.to_pure_dict(got), nnx.to_pure_dict(want))


def test_sixteen_bits():
  model = _model("llama", dtype=jnp.bfloat16)
  logits = _run(model, FEW)
  assert logits.dtype == jnp.bfloat16
  params = jax.tree.leaves(nnx.state(model, nnx.Param))
  assert {leaf.dtype for leaf in params} == {jnp.dtype("float32")}
  cache = model.init_cache(3, 13)
  assert cache.k.dtype == jnp.bfloat16
  assert model.init_cache(3, 13, jnp.float32).v.dtype == jnp.float32
  kept, _ = _run(model, FEW, cache=cache)
  want = np.asarray(_run(_model("llama"), FEW))
  for got in (logits, kept):
    np.testing.assert_allclose(got.astype("f4"), want, atol=0.1)


# --- Sizes --------------------------------------------------------------------


@pytest.mark.parametrize(
  ("name", "parameters"),
  [
    ("opt_125m", 125_239_296),
    ("opt_1_3b", 1_315_758_080),
    ("llama_130m", 134_105_856),
    ("llama_1_3b", 1_364_297_728),
  ],
)
def test_sizes_have_the_parameters_of_the_released_ones(name, parameters):
  model = abstract.build(name)
  assert abstract.count(model) == parameters
  attn = model.layers.attn
  assert nn.axis_names(attn.query.kernel) == (None, "embed", "heads")
  assert nn.axis_names(attn.out.kernel) == (None, "heads", "embed")
  assert nn.axis_names(model.words.embedding) == ("vocab", "embed")


REFUSED = [
  ("llama", {"heads": 3}, "3 heads cannot have 16 features"),
  ("opt", {"heads": 5}, "5 heads cannot have 16 features"),
  ("llama", {"kv_heads": 3}, "cannot share 3 heads of keys"),
  ("llama", {"kv_heads": 0}, "cannot share 0 heads of keys"),
  ("llama", {"head_dim": 5}, "a head has 5 .*take an even number"),
  ("llama", {"activation": "silo"}, "unknown activation 'silo'.*silu"),
  ("llama", {"layers": 0}, "a stack of 0 blocks"),
]


@pytest.mark.parametrize(("name", "options", "why"), REFUSED)
def test_sizes_that_do_not_fit(name, options, why):
  make = _make(name, **options)
  with pytest.raises(errors.UserError, match=why):
    nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0)))


def test_calls_that_do_not_fit():
  model = _model("opt")
  cache = model.init_cache(3, 8)
  calls = {
    r"positions for 64 tokens, got 65; make it with max_length=65": (
      lambda: model(jnp.zeros((1, 65), int))
    ),
    "positions for 64 tokens, got 99": lambda: model.init_cache(1, 99),
    r"place for 8 tokens of a row, and 9 .*init_cache\(3, 9\)": (
      lambda: jax.eval_shape(lambda x: model(x, cache=cache), TOKENS[:, :9])
    ),
    "of 2 layers and 3 rows; .* and 2 rows": (
      lambda: model(TOKENS[:2], cache=cache)
    ),
    r"shape \(batch, length\), got \(64,\)": lambda: model(TOKENS[0]),
    "the shape .* must be equal": (
      lambda: model(TOKENS, token_mask=jnp.ones((3, 1)))
    ),
    "padding in front of tokens": (
      lambda: model(TOKENS[:1, :2], token_mask=jnp.asarray([[0, 1]]))
    ),
    "and 10 are needed": (
      lambda: model(
        TOKENS[:, :2], cache=cache._replace(used=jnp.asarray([0, 8, 3]))
      )
    ),
    "unknown remat 'fully'": lambda: _model("opt", remat="fully")(TOKENS),
  }
  for why, call in calls.items():
    with pytest.raises(errors.UserError, match=why):
      call()
