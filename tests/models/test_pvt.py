"""PVTv2 and Twins-SVT: sizes, their attentions, starts from one another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jbin
from jbin import cost, errors, models, nn, pretrained, quantizers, views
from jbin.cli import _flags
from jbin.models import _twins
from tests import programs
from tests.models import abstract

PVT = {
  "features": (8, 12),
  "depths": (2, 1),
  "heads": (2, 3),
  "mlp_ratios": (2, 2),
  "reductions": (2, 1),
  "patches": (3, 3),
  "strides": (2, 2),
  "anchors": 4,
  "similar": 3,
  "bits": 5,
}
TWINS = {
  "features": (8, 12),
  "depths": (4, 2),
  "heads": (2, 3),
  "reductions": (2, 1),
  "strides": (2, 2),
  "window": 3,
  "mlp_ratio": 2.0,
  "anchors": 4,
  "similar": 3,
  "bits": 5,
}
NETS = {"pvt_v2": PVT, "twins_svt": TWINS}
CHEAP = {"pvt_v2": "sr", "twins_svt": "svt"}
# Of PVTv2, as transformers counts them; of Twins-SVT-S, as timm does.
SIZES = {
  "pvt_v2_b0": 3_666_760,
  "pvt_v2_b1": 14_009_000,
  "pvt_v2_b2": 25_362_856,
  "pvt_v2_b3": 45_238_696,
  "pvt_v2_b4": 62_556_072,
  "twins_svt_s": 24_060_776,
}
IMAGES = np.random.default_rng(0).normal(size=(2, 12, 12, 3))
IMAGES = jnp.asarray(IMAGES, jnp.float32)


def _make(name, seed=0, **options):
  """A small net with parameters of size one, norms and biases too."""
  arguments = {"num_classes": 5, **NETS[name], **options}

  def make():
    return models.REGISTRY.get(name)(**arguments, rngs=nnx.Rngs(seed))

  # Compiled as a whole, and without what is drawn anew: much quicker.
  graph, params, rest = nnx.split(nnx.eval_shape(make), nnx.Param, ...)
  if jax.tree.leaves(rest):
    rest = programs.once(lambda: nnx.split(make(), nnx.Param, ...)[2])()
  rng = np.random.default_rng(seed)
  draw = lambda p: jnp.asarray(rng.normal(0, 0.5, p.shape), p.dtype)
  return nnx.merge(graph, jax.tree.map(draw, params), rest)


def _values(model):
  """{path: array} of what is trained."""
  flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
  return {"/".join(map(str, path)): leaf[...] for path, leaf in flat}


def _put(model, values):
  state = nnx.state(model, nnx.Param)
  flat = [
    (path, leaf.replace(values["/".join(map(str, path))]))
    for path, leaf in nnx.to_flat_state(state)
  ]
  nnx.update(model, nnx.from_flat_state(flat))


@programs.once
def _run(model, images):
  return model(images)


@pytest.mark.parametrize("name", SIZES)
def test_sizes(name):
  model = abstract.build(name)
  assert abstract.count(model) == SIZES[name]
  got = abstract.logits(model, (2, 224, 224, 3))
  assert (got.shape, got.dtype) == ((2, 1000), jnp.float32)


@pytest.mark.parametrize("attention", ["full", "hash"])
@pytest.mark.parametrize("name", NETS)
def test_all_stages_but_the_last_have_the_attention(name, attention):
  model = abstract.build(name, attention=attention)
  kinds = {"full": nn.MultiHeadAttention, "hash": nn.HashAttention}
  attentions = {
    "/".join(map(str, path)): type(part)
    for path, part in nnx.iter_modules(model)
    if path and path[-1] == "attn"
  }
  assert len(attentions) >= len(model.stages)
  for path, kind in attentions.items():
    last = path.startswith("stages/3")
    assert kind is kinds["full" if last else attention], path
  assert not [path for path in _paths(model) if "reduction" in path]


def _paths(model):
  return {"/".join(map(str, path)) for path in abstract.parameters(model)}


@pytest.mark.parametrize("name", NETS)
def test_nothing_reduced_and_one_window_is_all_tokens(name):
  options = {"reductions": (1, 1), "strides": (2, 1)}
  cheap = _make(name, **options, **({"window": 6} if "twins" in name else {}))
  full = _make(name, seed=1, attention="full", **options)
  _put(full, _values(cheap))
  np.testing.assert_allclose(
    _run(cheap, IMAGES), _run(full, IMAGES), rtol=1e-5, atol=1e-5
  )


@pytest.mark.parametrize(
  ("name", "height", "width"), [("pvt_v2", 11, 9), ("twins_svt", 8, 12)]
)
def test_maps_need_not_be_square_nor_fit(name, height, width):
  """Overlapping patches; those of Twins fill the map, its windows do not."""
  model = _make(name)
  run = lambda x: jax.eval_shape(_run, model, x)
  assert run(IMAGES[:, :height, :width]).shape == (2, 5)
  with pytest.raises(errors.UserError, match="1x3 tokens cannot be reduced"):
    run(IMAGES[:, :2, :6])


def test_a_window_is_all_that_its_tokens_see():
  """Of a map of 5x7, padded to 6x9; the padding takes part."""
  block = _make("twins_svt", depths=(2, 2)).stages[0].first.local
  assert isinstance(block, _twins.WindowBlock)
  run = programs.once(lambda block, x: block.attend(x))
  x = np.random.default_rng(1).normal(size=(1, 5, 7, 8)).astype(np.float32)
  moved = x.copy()
  moved[0, 1, 4] += 1
  changed = np.asarray(run(block, x) != run(block, moved)).any(-1)[0]
  want = np.zeros((5, 7), bool)
  want[:3, 3:6] = True
  np.testing.assert_array_equal(changed, want)
  corner = np.zeros((1, 9, 8), np.float32)
  corner[0, [0, 3]] = x[0, [3, 4], 6]
  alone = programs.once(lambda block, x: block.attn(x))(block, corner)[0]
  np.testing.assert_allclose(
    run(block, x)[0, 3:, 6], alone[jnp.asarray([0, 3])], rtol=1e-4, atol=1e-5
  )


def test_positions_come_between_the_first_two_blocks():
  stage = _make("twins_svt", depths=(2, 2)).stages[0]
  x = np.random.default_rng(1).normal(size=(2, 6, 6, 8)).astype(np.float32)

  @programs.once
  def run(stage, x):
    y = stage.first.local(x)
    want = stage.first.across(y + stage.positions(y))
    return stage.first(x, positions=stage.positions), want

  np.testing.assert_allclose(*run(stage, x), rtol=1e-4, atol=1e-4)


# --- Starts -------------------------------------------------------------------


@pytest.mark.parametrize("name", NETS)
def test_starts_keep_what_both_attentions_have(name):
  cheap, full, hashed = (
    _make(name, seed=i, attention=attention)
    for i, attention in enumerate((CHEAP[name], "full", "hash"))
  )
  values = _values(cheap)
  middle = full.adapt(values)
  assert {*middle} == {*_values(full)} < {*values}
  assert {p for p in values if p not in middle} == {
    p for p in values if "/reduction/" in p
  }
  last = hashed.adapt(middle)
  assert {*last} == {*_values(hashed)}
  assert last.keys() == hashed.adapt(values).keys()
  for path, value in last.items():
    source = path.replace("/qk/", "/query/")
    np.testing.assert_array_equal(value, values[source])
    assert ("/qk/" in path) == (source != path)
  assert any("/qk/" in path for path in last)
  assert not any("stages/0" in p and "/key/" in p for p in last)
  assert any("stages/1" in p and "/key/" in p for p in last)
  _put(hashed, last)  # the shapes fit
  assert hashed.adapt(last) == last
  more = {**last, "stages/0/blocks/extra": 1, "stages/1/blocks/attn/query": 2}
  assert hashed.adapt(more) == more


def test_published_weights_are_a_start_for_softmax_over_all_tokens(
  root, tmp_path
):
  """By the pattern that the config has for what they hold beside."""
  cheap = _make("pvt_v2")
  pretrained.save(cheap, tmp_path / "weights")
  spec = f"{root}/configs/ecoformer_imagenet.py:b0,full"
  full = abstract.build("pvt_v2", num_classes=5, **PVT, attention="full")
  with pytest.raises(errors.UserError, match="spatial_reduction"):
    pretrained.load(tmp_path / "weights", full)
  fresh = (_flags.load(spec).start.fresh,)
  found = pretrained.load(tmp_path / "weights", full, fresh=fresh)
  want = full.adapt(_values(cheap))
  assert found.keys() == want.keys()
  for path, value in found.items():
    np.testing.assert_array_equal(value, want[path])


# --- Low-bit ------------------------------------------------------------------


@pytest.mark.parametrize("name", NETS)
def test_rules_reach_every_layer(name):
  """Depthwise convolutions too; products of hash codes are left as written."""
  model = abstract.build(name, **NETS[name], attention="hash")
  example = jax.ShapeDtypeStruct((1, 12, 12, 3), jnp.float32)
  rules = [
    jbin.Rule(
      input_quantizer=quantizers.absmax(8), kernel_quantizer=quantizers.xnor()
    )
  ]
  macs = cost.count(jbin.quantize(model, rules), example).macs
  assert set(macs) == {(8, 1), (32, 32), (32, 1), (1, 32)}
  before = cost.count(model, example).macs
  assert before[32, 32] == macs[8, 1] + macs[32, 32]
  assert (macs[32, 1], macs[1, 32]) == (before[32, 1], before[1, 32])


# --- Hash codes in a network --------------------------------------------------


def test_one_with_hash_codes_trains_in_bfloat16():
  model = _make("pvt_v2", attention="hash", dtype=jnp.bfloat16, drop_path=0.2)
  images = jnp.asarray(IMAGES)
  logits = nnx.jit(lambda model, x: model(x))(views.evaluation(model), images)
  assert np.isnan(np.asarray(logits, np.float32)).all()
  nn.calibrate(model, images)
  for path, state in nnx.to_flat_state(nnx.state(model, nn.HashState)):
    if path[-1] == "fitted":
      assert state[...].all(), path
  graph, params, rest = nnx.split(model, nnx.Param, ...)

  @programs.once
  def step(params, rest):
    def loss(params):
      net = nnx.merge(graph, params, rest, copy=True)
      logits = net(images).astype(jnp.float32)
      return -jax.nn.log_softmax(logits)[:, 0].mean()

    return jax.value_and_grad(loss)(params)

  value, gradients = step(params, rest)
  assert np.isfinite(value)
  seen = 0
  for path, gradient in nnx.to_flat_state(gradients):
    gradient = np.asarray(gradient[...], np.float32)
    assert np.isfinite(gradient).all(), path
    if path[-2:] == ("qk", "kernel"):
      seen += 1
      assert gradient.any(), path
  assert seen


@pytest.mark.parametrize("name", NETS)
def test_paths_are_dropped_in_training_alone(name):
  model = _make(name, drop_path=0.9)
  still = _run(views.evaluation(model), IMAGES)
  assert not np.allclose(_run(model, IMAGES), still, rtol=1e-2)
  np.testing.assert_array_equal(_run(views.evaluation(model), IMAGES), still)


def test_no_stream_is_kept_where_nothing_is_drawn():
  for name, options in NETS.items():
    model = abstract.build(name, **options)
    assert not nnx.state(model, nnx.RngState)


@pytest.mark.parametrize(
  ("name", "options", "text"),
  [
    ("pvt_v2", {"attention": "svt"}, "unknown attention 'svt'"),
    ("twins_svt", {"attention": "sr"}, "unknown attention 'sr'"),
    ("pvt_v2", {"heads": (1,)}, "give one of each to every stage"),
    ("twins_svt", {"depths": (3, 2)}, "an even number of blocks"),
    ("pvt_v2", {"heads": (3, 3)}, "3 heads cannot have 8 features"),
    (
      "twins_svt",
      {"heads": (3, 3), "attention": "hash"},
      "3 heads do not divide 8",
    ),
    ("pvt_v2", {"shift": "both", "attention": "hash"}, "unknown shift"),
    ("pvt_v2", {"drop_path": 1.0}, "drop_path is 1.0; it must be a rate"),
  ],
)
def test_errors(name, options, text):
  with pytest.raises(errors.UserError, match=text):
    models.REGISTRY.get(name)(**{**NETS[name], **options}, rngs=nnx.Rngs(0))
