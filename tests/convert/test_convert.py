"""Rules on models that others wrote: converted, trained, counted, undone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jbin
from jbin import cost, nn, quantizers as q, schedules
from tests import programs
from tests.convert.others import MODELS, Cnn, Decoder, Vit, images

ONE_BIT = {"input_quantizer": q.sign(), "kernel_quantizer": q.xnor()}
ATTENTION = {
  "query_quantizer": q.sign(),
  "key_quantizer": q.sign(),
  "weights_quantizer": q.dorefa_activation(1),
  "value_quantizer": q.sign(),
}
# One bit everywhere, attention included where there is one.
EVERYWHERE = [
  jbin.Rule(optional=True, **ATTENTION),
  jbin.Rule(optional=True, type="Embed", kernel_quantizer=q.xnor((0,))),
  jbin.Rule(**ONE_BIT),
]
every_model = pytest.mark.parametrize("name", MODELS)


@functools.cache
def _made(name):
  """A model, and its one-bit copy."""
  make, x = MODELS[name]
  model = nnx.view(
    make(nnx.Rngs(params=0, dropout=1)),
    deterministic=True,
    use_running_average=True,
    raise_if_not_found=False,
  )
  return model, jbin.quantize(model, EVERYWHERE, x), x


def _state(model):
  return dict(nnx.to_flat_state(nnx.state(model)))


@every_model
def test_parameters_names_and_streams_stay(name):
  model, low, _ = _made(name)
  before, after = _state(model), _state(low)
  for path, variable in before.items():
    assert type(after[path]) is type(variable)
    kept, was = after[path].get_value(), variable.get_value()
    assert kept is was, path
    assert after[path].get_metadata() == variable.get_metadata()
  assert [p for p in after if p not in before and "progress" not in p] == []


@every_model
def test_the_model_itself_is_untouched(name):
  model, low, x = _made(name)
  assert not [
    part
    for _, part in nnx.iter_modules(model)
    if isinstance(part, nn.Quantizer)
  ]
  assert np.abs(np.asarray(model(x) - low(x))).max() > 0


@every_model
def test_every_product_of_a_layer_is_one_bit(name):
  _, low, x = _made(name)
  report = cost.count(low, x[:1])
  wide = [r for r in report.layers if (r.lhs_bits, r.rhs_bits) != (1, 1)]
  # A table that is looked up is no product; as the head it meets floats.
  allowed = {"decoder": {"embedder", "mix"}, "ssm": {"A_log", "D"}}.get(
    name, set()
  )
  own_code = {"ssm": 3}.get(name, 0)  # products of the scan's arrays
  assert {r.name for r in wide if r.params} == allowed
  assert len([r for r in wide if not r.params]) == own_code


@every_model
def test_the_plan_says_what_quantize_does(name):
  model, low, x = _made(name)
  plan = jbin.plan(model, EVERYWHERE, x)
  parts = {"/".join(map(str, p)): m for p, m in nnx.iter_modules(low)}
  for entry in plan.entries:
    if entry.path not in parts:  # a product in the model's own code
      assert not entry.slots
      continue
    part = parts[entry.path]
    held = [
      getattr(part, slot).spec
      for slot in ("input_quantizer", "kernel_quantizer", "embedding_quantizer")
      if getattr(part, slot, None) is not None
    ]
    if isinstance(part, nnx.MultiHeadAttention):
      assert isinstance(part.attention_fn, nn.DotProductAttention)
    else:
      assert held == list(entry.slots.values()), entry.path
  text = str(plan)
  for entry in plan.entries:
    assert entry.path in text


@every_model
def test_dequantize_gives_the_model_back(name):
  model, low, x = _made(name)
  again = jbin.dequantize(low)
  assert [type(m) for _, m in nnx.iter_modules(again)] == [
    type(m) for _, m in nnx.iter_modules(model)
  ]
  assert _state(again).keys() == _state(model).keys()
  np.testing.assert_array_equal(again(x), model(x))


@every_model
def test_an_abstract_model_converts_too(name):
  make, x = MODELS[name]
  abstract = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
  shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
  low = jbin.quantize(abstract, EVERYWHERE, shape)
  leaves = jax.tree.leaves(nnx.state(low))
  assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)
  model, done, _ = _made(name)
  del model
  assert jax.tree.map(jnp.shape, nnx.state(low)) == jax.tree.map(
    jnp.shape, nnx.state(done)
  )


@every_model
def test_it_trains(name):
  """On one batch the loss falls, and every latent weight gets a gradient."""
  make, x = MODELS[name]
  wide = q.sign(clip=8.0)  # inputs are not normalised in these
  rules = [
    jbin.Rule(optional=True, **{**ATTENTION, "value_quantizer": wide}),
    jbin.Rule(input_quantizer=wide, kernel_quantizer=q.xnor()),
  ]
  model = jbin.quantize(make(nnx.Rngs(params=0, dropout=1)), rules, x)
  graphdef, params, rest = nnx.split(model, nnx.Param, ...)
  start = jax.eval_shape(lambda model: model(x), model)
  goal = jax.random.normal(jax.random.key(3), start.shape)
  optimizer = optax.adam(3e-3)

  @jax.jit
  def step(params, state):
    def loss(params):
      model = nnx.merge(graphdef, params, rest, copy=True)
      return jnp.square(model(x) - goal).mean()

    value, grads = jax.value_and_grad(loss)(params)
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state, value, grads

  state, values = optimizer.init(params), []
  for _ in range(30):
    params, state, value, grads = step(params, state)
    values.append(float(value))
  assert np.isfinite(values).all()
  assert min(values[-10:]) < 0.95 * values[0]
  for path, g in nnx.to_flat_state(grads):
    if path[-1] in ("kernel", "embedding"):
      assert np.asarray(g.get_value()).any(), path


# --- Schedules, draws, stacks -------------------------------------------------


def test_a_rule_may_begin_late():
  model, _, x = _made("cnn")
  low = jbin.quantize(model, jbin.Rule(start=0.3, **ONE_BIT), x)
  run = programs.Jit(lambda m, x: m(x))
  for progress, same in ((0.0, True), (0.29, True), (0.3, False)):
    now = nnx.merge(
      nnx.graphdef(low), schedules.set_progress(nnx.state(low), progress)
    )
    np.testing.assert_array_equal(
      np.allclose(run(now, x), model(x), atol=1e-5), same
    )
  assert run.traces == 1


def test_a_stack_of_layers_gets_a_stack_of_variables():
  model, x = Decoder(nnx.Rngs(0)), MODELS["decoder"][1]
  bounds = q.ema_bounds(8, start=0.5)
  low = jbin.quantize(
    model, jbin.Rule("layers/down", input_quantizer=bounds, start=0.2), x
  )
  held = low.layers.down.input_quantizer
  assert held.progress[...].shape == (3,)
  assert held.statistics["bounds"][...].shape == (3, 32)
  np.testing.assert_allclose(low(x), model(x), rtol=1e-5, atol=1e-5)


def test_a_stack_of_attentions_gets_a_stack_of_variables():
  @nnx.vmap(in_axes=0, out_axes=0)
  def stack(key):
    return nnx.MultiHeadAttention(2, 8, decode=False, rngs=nnx.Rngs(key))

  class Net(nnx.Module):
    def __init__(self):
      self.layers = stack(jax.random.split(jax.random.key(0), 3))

    def __call__(self, x):
      return jax.lax.scan(lambda x, f: (f(x), None), x, self.layers)[0]

  x, bounds = images(5, 8), q.ema_bounds(8, start=0.5)
  model = Net()
  rule = jbin.Rule(value_quantizer=bounds, start=0.2)
  (entry,) = [e for e in jbin.plan(model, rule, x).entries if e.slots]
  assert "what it measures stays under nnx.scan" in entry.reason
  low = jbin.quantize(model, rule, x)
  held = low.layers.attention_fn.value_quantizer
  assert held.progress[...].shape == (3,)
  np.testing.assert_allclose(low(x), model(x), rtol=1e-5, atol=1e-5)


def test_shardings_stay():
  mesh = jax.make_mesh((2, 4), ("data", "fsdp"))
  with jax.set_mesh(mesh):
    model = nnx.Linear(
      8, 16, kernel_metadata={"out_sharding": (None, "fsdp")}, rngs=nnx.Rngs(0)
    )
    low = jbin.quantize(model, jbin.Rule(kernel_quantizer=q.xnor()))
  assert low.kernel[...].sharding == model.kernel[...].sharding
  assert low.kernel.get_metadata() == model.kernel.get_metadata()


def test_it_is_saved_and_restored(tmp_path):
  import orbax.checkpoint as ocp

  _, low, x = _made("vit")
  state = nnx.state(low)
  pure = nnx.to_pure_dict(state)
  with ocp.StandardCheckpointer() as saver:
    saver.save(tmp_path / "model", pure)
    saver.wait_until_finished()
    back = saver.restore(tmp_path / "model", jax.eval_shape(lambda: pure))
  make, _ = MODELS["vit"]
  twin = jbin.quantize(make(nnx.Rngs(9)), EVERYWHERE, x)
  nnx.replace_by_pure_dict(state, back)
  nnx.update(twin, state)
  np.testing.assert_array_equal(twin(x), low(x))


def test_cite_names_what_is_used_once():
  text = jbin.cite(_made("vit")[1])
  assert text.count("@") == 3  # BinaryNet, XNOR-Net, DoReFa-Net
  assert "Courbariaux" in text
  assert "Zhou" in text
  assert jbin.cite(_made("vit")[0]) == ""


def test_one_rule_needs_no_list():
  low = jbin.quantize(Cnn(nnx.Rngs(0)), jbin.Rule("conv2", **ONE_BIT))
  assert isinstance(low.conv2, nn.Conv)
  assert type(low.conv1) is nnx.Conv


def test_attention_keeps_its_dropout_stream():
  model = nnx.MultiHeadAttention(
    2, 8, dropout_rate=0.5, decode=False, rngs=nnx.Rngs(0)
  )
  low = jbin.quantize(model, jbin.Rule(**ATTENTION))
  assert low.rngs.key[...] == model.rngs.key[...]
  assert isinstance(jbin.dequantize(low).attention_fn, type(lambda: 0))


def test_vit_prints_what_will_happen():
  model = Vit(nnx.Rngs(0))
  text = str(jbin.plan(model, EVERYWHERE, images(8, 8, 3)))
  assert "projection" in text.splitlines()[2]
  assert "16 of 16 layers change" in text
  assert "cls_token" in text
