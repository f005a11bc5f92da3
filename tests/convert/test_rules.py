"""Rules: what they select, what they refuse, what is left and why."""

import functools

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import jbin
from jbin import convert, errors, nn, quantizers as q
from tests.convert.others import MODELS

ONE_BIT = {"input_quantizer": q.sign(), "kernel_quantizer": q.xnor()}


@functools.cache
def _made(name):
  make, x = MODELS[name]
  return make(nnx.Rngs(params=0, dropout=1)), x


def _taken(plan, rule):
  return [entry.path for entry in plan.entries if entry.rule == rule]


def test_first_and_last_are_those_that_run_first_and_last():
  model, x = _made("vit")
  rules = [
    jbin.Rule(position="first"),
    jbin.Rule(position="last"),
    jbin.Rule(position="inner", **ONE_BIT),
  ]
  plan = jbin.plan(model, rules, x)
  assert _taken(plan, 0) == ["projection"]
  assert _taken(plan, 1) == ["classifier"]
  assert len(_taken(plan, 2)) == 12
  with pytest.raises(errors.UserError, match=r"jbin.quantize\(model, rules, x"):
    jbin.plan(model, rules)


@pytest.mark.parametrize(
  ("fields", "paths"),
  [
    ({"type": nnx.Linear}, ["linear1", "linear2"]),
    ({"type": "Conv"}, ["conv1", "conv2"]),
    ({"type": ("Conv", nnx.Linear), "path": ".*1"}, ["conv1", "linear1"]),
    ({"min_size": 1000}, ["conv2", "linear1"]),
    ({"max_size": 100}, ["conv1"]),
    ({"path": "conv[0-9]"}, ["conv1", "conv2"]),
  ],
)
def test_selectors(fields, paths):
  model, x = _made("cnn")
  plan = jbin.plan(model, jbin.Rule(**ONE_BIT, **fields), x)
  assert _taken(plan, 0) == paths


def test_the_first_rule_that_fits_wins():
  model, x = _made("cnn")
  eight = {"kernel_quantizer": q.absmax(8)}
  plan = jbin.plan(
    model, [jbin.Rule("linear.*", **eight), jbin.Rule(**ONE_BIT)], x
  )
  bits = {entry.path: entry.bits for entry in plan.entries if entry.slots}
  assert bits == {
    "conv1": "1x1",
    "conv2": "1x1",
    "linear1": "32x8",
    "linear2": "32x8",
  }


@pytest.mark.parametrize(
  ("rules", "text"),
  [
    (
      [jbin.Rule("layer/0/mlp/layers/0", **ONE_BIT)],
      "nearest paths are 'layers/0/mlp/layers/0'",
    ),
    (
      [jbin.Rule(**ONE_BIT), jbin.Rule("classifier", **ONE_BIT)],
      "rule 1 takes no layer.*an earlier rule takes them",
    ),
    (
      [jbin.Rule("layers.*", kernel_quantizer=q.absmax(8, (4,)))],
      "layer 'layers/0/attention/key', rule 0.*rank 2",
    ),
    ([jbin.Rule(min_size=10**9, **ONE_BIT)], "other conditions do not hold"),
    (
      [jbin.Rule("layers/0/mlp", **ONE_BIT)],
      "is a Sequential, which rules do not reach.*not subclasses",
    ),
  ],
)
def test_a_wrong_rule_is_an_error_that_names_the_cure(rules, text):
  model, x = _made("vit")
  with pytest.raises(errors.UserError, match=text):
    jbin.plan(model, rules, x)


@pytest.mark.parametrize(
  ("fields", "text"),
  [
    ({"path": "blocks/["}, "no regular expression"),
    ({"position": "frist"}, "did you mean first"),
    ({"kernel_quantizer": "sign"}, "must be a quantizer"),
    ({"start": 2.0, **ONE_BIT}, "progress from 0 to 1"),
    ({"start": 0.5}, "has no quantizers, so start"),
    ({"start": -0.1, **ONE_BIT}, "progress from 0 to 1"),
  ],
)
def test_a_bad_rule_is_refused_at_once(fields, text):
  with pytest.raises(errors.UserError, match=text):
    jbin.Rule(**fields)


def test_an_optional_rule_may_take_nothing():
  model, x = _made("cnn")
  rules = [jbin.Rule("decoder", optional=True, **ONE_BIT)]
  assert not [e for e in jbin.plan(model, rules, x).entries if e.slots]


# --- What is left alone, and why ----------------------------------------------


def test_reasons():
  class Scaled(nnx.Linear):
    def __call__(self, x):
      return 2 * super().__call__(x)

  class Odd(nnx.Module):
    def __init__(self, rngs):
      self.scaled = Scaled(4, 4, rngs=rngs)
      self.hooked = nnx.Linear(
        4,
        4,
        dot_general=functools.partial(jax.lax.dot_general),
        rngs=rngs,
      )
      self.asleep = nnx.Linear(4, 4, rngs=rngs)
      self.mine = nn.Linear(4, 4, kernel_quantizer=q.sign(), rngs=rngs)
      self.w = nnx.Param(jnp.ones((4, 4)))

    def __call__(self, x):
      return self.mine(self.hooked(self.scaled(x))) @ self.w[...]

  rules = [jbin.Rule("mine"), jbin.Rule(**ONE_BIT)]
  plan = jbin.plan(Odd(nnx.Rngs(0)), rules, jnp.ones((1, 4)))
  reasons = {entry.path: entry.reason for entry in plan.entries}
  assert "a subclass of Linear" in reasons["scaled"]
  assert "dot_general" in reasons["hooked"]
  assert "did not run" in reasons["asleep"]
  assert reasons["mine"] == "already quantized"
  assert any(r == "w, in the model's own code" for r in reasons.values())


def test_a_variable_in_two_places_is_refused():
  class Tied(nnx.Module):
    def __init__(self, rngs):
      self.a = nnx.Linear(4, 4, rngs=rngs)
      self.b = nnx.Linear(4, 4, rngs=rngs)
      self.b.kernel = self.a.kernel

  with pytest.raises(errors.UserError, match="'a/kernel' and 'b/kernel'"):
    jbin.quantize(Tied(nnx.Rngs(0)), jbin.Rule(**ONE_BIT))


# --- Named sets ---------------------------------------------------------------


def test_a_method_leaves_the_ends_float_and_delays_kernels():
  rules = convert.REGISTRY.get("method")(
    "biper", start=0.1, weights_start=0.4, keep=("conv2",), omega=10.0
  )
  model, x = _made("cnn")
  bits = {e.path: e.bits for e in jbin.plan(model, rules, x).entries if e.bits}
  assert bits == {
    "conv1": "32x32",
    "conv2": "32x32",
    "linear1": "1x1",
    "linear2": "32x32",
  }
  kernel = rules[-1].slots(["kernel_quantizer"])["kernel_quantizer"]
  assert (kernel.start, kernel.quantizer.start) == (0.1, 0.4)
  assert kernel.quantizer.quantizer.omega == 10.0


def test_written_out_rules():
  rules = convert.REGISTRY.get("custom")(
    rules=[{"path": "conv.*", **ONE_BIT}, {"position": "last"}]
  )
  assert rules == [jbin.Rule("conv.*", **ONE_BIT), jbin.Rule(position="last")]


@pytest.mark.parametrize(
  ("name", "arguments", "text"),
  [
    ("method", {"method": "rest"}, "unknown method 'rest'; did you mean reste"),
    (
      "method",
      {"method": "biper", "omgea": 3.0},
      "unknown argument of method 'biper' 'omgea'; did you mean omega",
    ),
    ("method", {"method": "bnn", "ends": "flat"}, "unknown ends 'flat'"),
    ("custom", {"rules": [{"pth": "x"}]}, "did you mean path"),
    ("custom", {"rules": ["conv"]}, "a rule is a group of fields"),
  ],
)
def test_a_wrong_set_is_an_error(name, arguments, text):
  with pytest.raises(errors.UserError, match=text):
    convert.REGISTRY.get(name)(**arguments)
