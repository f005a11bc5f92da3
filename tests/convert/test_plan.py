"""What a plan says: widths, reasons, stacks, what is low-bit already."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jbin
from jbin import convert, errors, nn, quantizers as q
from jbin.train import build, config as config_lib
from tests.convert.others import MODELS, Cnn

EIGHT = {"kernel_quantizer": q.absmax(8)}
ONE_BIT = {"input_quantizer": q.sign(), "kernel_quantizer": q.xnor()}
SCORES = {"query_quantizer": q.sign(), "key_quantizer": q.sign()}


def _entries(model, rules, *x):
  return {e.path: e for e in jbin.plan(model, rules, *x).entries}


# --- Widths -------------------------------------------------------------------


def test_floats_have_the_width_that_the_layer_computes_in():
  class Net(nnx.Module):
    def __init__(self, rngs):
      narrow = {"dtype": jnp.bfloat16, "rngs": rngs}
      self.embed = nnx.Embed(4, 8, **narrow)
      self.low = nnx.Linear(8, 8, **narrow)
      self.left = nnx.Linear(8, 8, **narrow)
      self.stored = nnx.Linear(8, 8, param_dtype=jnp.float16, rngs=rngs)
      self.wide = nnx.Linear(8, 8, rngs=rngs)
      self.attention = nnx.MultiHeadAttention(2, 8, decode=False, **narrow)
      self.plain = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)

  rules = [
    jbin.Rule("low", **EIGHT),
    jbin.Rule("attention", query_quantizer=q.sign()),
  ]
  bits = {path: e.bits for path, e in _entries(Net(nnx.Rngs(0)), rules).items()}
  del bits["attention/query"], bits["attention/key"]
  assert bits == {
    "embed": "16",
    "low": "16x8",
    "left": "16x16",
    "stored": "16x16",
    "wide": "32x32",
    "attention": "1x16, 16x16",
    "attention/out": "16x16",
    "attention/value": "16x16",
    "plain": "32x32, 32x32",
    **dict.fromkeys(
      (f"plain/{part}" for part in ("key", "out", "query", "value")), "32x32"
    ),
  }


# --- Why a layer is left ------------------------------------------------------


@pytest.mark.parametrize(
  ("fields", "text"),
  [
    ({"path": "decoder"}, "rule 1 does not fit: path='decoder'"),
    ({"type": nnx.Linear}, "rule 1 does not fit: type=Linear"),
    ({"type": ("Conv", nnx.Einsum)}, r"rule 1 does not fit: type=\(Conv, Ein"),
    ({"min_size": 8}, r"min_size=8 \(an attention has no kernel\)"),
    ({"position": "last"}, r"position='last' \(an attention has no place\)"),
  ],
)
def test_the_condition_that_keeps_a_rule_from_an_attention(fields, text):
  make, x = MODELS["vit"]
  rules = [
    jbin.Rule(**EIGHT),
    jbin.Rule(optional=True, **fields, **SCORES),
  ]
  found = _entries(make(nnx.Rngs(0)), rules, x)["layers/0/attention"]
  assert not found.slots
  with pytest.raises(AssertionError, match=text):
    raise AssertionError(found.reason)


def test_without_a_rule_for_attentions():
  make, x = MODELS["vit"]
  found = _entries(make(nnx.Rngs(0)), jbin.Rule(**EIGHT), x)
  reason = found["layers/0/attention"].reason
  assert reason == "no rule quantizes products of activations"


def test_a_rule_for_a_subclass_says_why_it_takes_nothing():
  class Scaled(nnx.Linear):
    def __call__(self, x):
      return 2 * super().__call__(x)

  net = nnx.Sequential(Scaled(4, 4, rngs=nnx.Rngs(0)))
  with pytest.raises(errors.UserError, match=r"is a Scaled.*not subclasses"):
    jbin.plan(net, jbin.Rule("layers/0", **EIGHT), jnp.ones((1, 4)))


# --- What is low-bit already --------------------------------------------------


def _low():
  model, x = Cnn(nnx.Rngs(0)), MODELS["cnn"][1]
  rules = [jbin.Rule("conv2", input_quantizer=q.lsq(4))]
  low = jbin.quantize(model, rules, x)
  low.conv2.input_quantizer.learned["step"][...] += 1.0
  return low, x


def test_a_rule_for_what_is_quantized_is_an_error_that_names_the_cure():
  low, x = _low()
  text = r"'conv2' is quantized already.*dequantize\(model\)"
  for rule in (jbin.Rule(**ONE_BIT), jbin.Rule("conv2", **EIGHT)):
    with pytest.raises(errors.UserError, match=text):
      jbin.quantize(low, rule, x)
  jbin.quantize(jbin.dequantize(low), jbin.Rule(**ONE_BIT), x)


@pytest.mark.parametrize("first", [[], [jbin.Rule("conv2")]])
def test_what_no_rule_touches_keeps_what_it_has_learned(first):
  low, x = _low()
  rules = [*first, jbin.Rule("conv1", **EIGHT)]
  entry = _entries(low, rules, x)["conv2"]
  assert (entry.reason, entry.bits) == ("already quantized", "4x32")
  again = jbin.quantize(low, rules, x)
  assert isinstance(again.conv1, nn.Conv)
  learned = [m.conv2.input_quantizer.learned["step"][...] for m in (low, again)]
  np.testing.assert_array_equal(*learned)


@pytest.mark.parametrize("slots", [ONE_BIT, SCORES], ids=["layers", "scores"])
def test_a_plan_is_applied_once(slots):
  make, x = MODELS["vit"]
  model, rule = make(nnx.Rngs(0)), jbin.Rule(**slots)
  plan = jbin.plan(model, rule, x)
  low = plan.apply(model)
  with pytest.raises(errors.UserError, match="' is quantized already"):
    plan.apply(low)
  with pytest.raises(errors.UserError, match="' is quantized already"):
    jbin.plan(low, rule, x)
  found = _entries(low, [jbin.Rule()], x)
  done = [e.reason == "already quantized" for e in found.values()]
  assert sum(done) == sum(bool(e.slots) for e in plan.entries) > 0


# --- Stacks -------------------------------------------------------------------


def test_a_stack_counts_the_elements_of_one_layer():
  make, x = MODELS["decoder"]
  model = make(nnx.Rngs(0))
  (size,) = {16 * 32}
  assert model.layers.down.kernel.size == 3 * size
  for fields, taken in (
    ({"min_size": size}, True),
    ({"min_size": size + 1}, False),
    ({"max_size": size}, True),
    ({"max_size": size - 1}, False),
  ):
    rule = jbin.Rule("layers/.*", optional=True, **fields, **EIGHT)
    found = _entries(model, rule, x)
    assert bool(found["layers/down"].slots) == taken
    assert bool(found["layers/gate"].slots) == taken


def test_a_stack_is_first_or_last_as_a_whole():
  class Net(nnx.Module):
    def __init__(self):
      keys = jax.random.split(jax.random.key(0), 3)
      self.layers = nnx.vmap(lambda key: nnx.Linear(4, 4, rngs=nnx.Rngs(key)))(
        keys
      )
      self.head = nnx.Linear(4, 4, rngs=nnx.Rngs(0))

    def __call__(self, x):
      x = jax.lax.scan(lambda x, f: (f(x), None), x, self.layers)[0]
      return self.head(x)

  x = jnp.ones((2, 4))
  rules = [jbin.Rule(position="first"), jbin.Rule(**EIGHT)]
  low = jbin.quantize(Net(), rules, x)
  assert type(low.layers) is nnx.Linear
  assert isinstance(low.head, nn.Linear)


@pytest.mark.parametrize(
  ("spec", "text"),
  [
    (q.ema_bounds(8), "a stack: what it measures stays under nnx.scan"),
    (q.delayed(q.ema_bounds(8), 0.5), "what it measures stays"),
    (q.binaryconnect(mode="stochastic"), "what it draws stays"),
    (q.sign(), ""),
  ],
)
def test_a_stack_that_may_lose_its_state_is_told(spec, text):
  make, x = MODELS["decoder"]
  rule = jbin.Rule("layers/down", input_quantizer=spec)
  plan = jbin.plan(make(nnx.Rngs(0)), rule, x)
  (entry,) = [e for e in plan.entries if e.path == "layers/down"]
  assert entry.slots
  assert text in entry.reason
  assert bool(entry.reason) == bool(text)
  assert entry.reason in str(plan)
  model, x = Cnn(nnx.Rngs(0)), MODELS["cnn"][1]
  single = _entries(model, jbin.Rule("conv2", input_quantizer=spec), x)
  assert single["conv2"].reason == ""


# --- First and last -----------------------------------------------------------


def test_last_is_the_layer_of_the_last_product():
  """Not the one that was called first, or was made last."""

  class Net(nnx.Module):
    def __init__(self, rngs):
      self.twice = nnx.Linear(4, 4, rngs=rngs)
      self.inner = nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x):
      return self.twice(nnx.relu(self.inner(self.twice(x))))

  net, x = Net(nnx.Rngs(0)), jnp.ones((1, 4))
  for position in ("first", "last"):
    rules = [jbin.Rule(position=position), jbin.Rule(**EIGHT)]
    found = _entries(net, rules, x)
    assert [path for path, e in found.items() if e.rule == 0] == ["twice"]
    assert found["inner"].slots


# --- Quantizers by name, and Larq's -------------------------------------------


def test_an_unknown_quantizer_in_a_config_names_near_ones():
  rules = {"name": "custom", "rules": [{"kernel_quantizer": {"name": "xnr"}}]}
  named = config_lib.named(rules, "rules")
  with pytest.raises(errors.UserError, match=r"'xnr'; did you mean xnor"):
    build.call(convert.REGISTRY, named)


def test_delayed_refuses_a_start_that_is_no_progress():
  for start in (-0.1, 1.1):
    with pytest.raises(errors.UserError, match="a progress from 0 to 1"):
      q.delayed(q.sign(), start)


LARQ = {
  "SteSign": q.sign(),
  "ApproxSign": q.bireal(),
  "SteHeaviside": q.ste_heaviside(),
  "SwishSign": q.swish_sign(),
  "MagnitudeAwareSign": q.xnor(keep_scale=True),
  "SteTern": q.ste_tern(),
  "DoReFa": q.dorefa_activation(2),
}


@pytest.mark.parametrize("name", LARQ)
def test_larq_s_quantizers_are_a_rule_s(name):
  spec = LARQ[name]
  model, x = Cnn(nnx.Rngs(0)), MODELS["cnn"][1]
  rule = jbin.Rule("conv2", input_quantizer=spec, kernel_quantizer=spec)
  low = jbin.quantize(model, rule, x)
  low = nnx.view(low, deterministic=True, use_running_average=True)
  assert np.isfinite(low(x)).all()
