"""The phases of a training step, and the names of its backward products."""

import itertools
import json

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx
from jax import lax

import jbin
from jbin import cost
from jbin.train import config as config_lib, counting, program, sharding
from tests.train.conftest import tiny_config, tiny_values

__all__ = ["tiny_config", "tiny_values"]  # fixtures
_BATCH = 5
_SIZES = (4, 8, 6, 3)


def _array(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


_PARAMS = {
  f"layer{i}": {"kernel": _array(n, m), "bias": _array(m)}
  for i, (n, m) in enumerate(itertools.pairwise(_SIZES))
}
_X = _array(_BATCH, _SIZES[0])
_MACS = [_BATCH * n * m for n, m in itertools.pairwise(_SIZES)]


def _layer(p, x):
  return jnp.tanh(x @ p["kernel"] + p["bias"][None])


def _loss(params, x, layer=_layer):
  for p in params.values():
    x = layer(p, x)
  return (x**2).sum()


def _macs(report):
  return {
    phase: sum(row["macs"].values()) for phase, row in report.phases().items()
  }


def _roles(report):
  """(layer, what its gradient is of) of the backward products, sorted."""
  found = []
  for record in report.layers:
    if record.phase == "backward":
      what = record.gradient_of.rpartition("/")[2] if record.gradient_of else ""
      found.append((record.name, what or ("x" if record.params else "?")))
  return sorted(found)


# --- How much each phase costs ----------------------------------------------


def test_backward_is_twice_forward_without_the_first_layers_input():
  report = cost.count(jax.grad(_loss), _PARAMS, _X, weights=0)
  forward = sum(_MACS)
  assert _macs(report) == {
    "forward": forward,
    "backward": 2 * forward - _MACS[0],
  }
  assert sum(report.macs.values()) == 3 * forward - _MACS[0]


def test_a_gradient_of_the_input_costs_the_rest():
  both = jax.grad(_loss, argnums=(0, 1))
  report = cost.count(both, _PARAMS, _X, weights=0)
  assert _macs(report)["backward"] == 2 * sum(_MACS)


def test_a_resnet_costs_the_same_way():
  model = nnx.eval_shape(
    lambda: jbin.models.resnet20(stem="conv3", rngs=nnx.Rngs(0))
  )

  def loss(model, x):
    return (model(x) ** 2).sum()

  x = _array(2, 32, 32, 3)
  report = cost.count(nnx.grad(loss), model, x, training=True)
  forward = cost.count(model, x)
  macs = _macs(report)
  assert macs["forward"] == sum(forward.macs.values())
  (stem,) = [r for r in forward.layers if r.name == "stem/conv"]
  assert macs["backward"] == 2 * macs["forward"] - stem.macs
  assert all(what != "?" for _, what in _roles(report))


def test_remat_adds_one_forward_of_the_wrapped_part():
  plain = cost.count(jax.grad(_loss), _PARAMS, _X, weights=0)
  loss = lambda params, x: _loss(params, x, jax.checkpoint(_layer))
  report = cost.count(jax.grad(loss), _PARAMS, _X, weights=0)
  assert _macs(report) == _macs(plain) | {"recompute": sum(_MACS)}
  assert report.phases()["recompute"]["elementwise"] > 0
  assert _roles(report) == _roles(plain)


def test_remat_does_not_run_what_backward_needs_no_result_of():
  layer = jax.checkpoint(lambda p, x: jnp.tanh(x @ p["kernel"]) @ p["second"])
  params = {"kernel": _array(4, 8), "second": _array(8, 2)}
  loss = lambda params, x: (layer(params, x) ** 2).sum()
  report = cost.count(jax.grad(loss), params, _X, weights=0)
  assert _macs(report)["recompute"] == _BATCH * 4 * 8
  assert _macs(report)["forward"] == _BATCH * (4 * 8 + 8 * 2)


def test_accumulation_of_gradients_multiplies():
  def step(params, x):
    def add(total, x):
      grads = jax.grad(_loss)(params, x)
      return jax.tree.map(jnp.add, total, grads), None

    zeros = jax.tree.map(jnp.zeros_like, params)
    return lax.scan(add, zeros, x)[0]

  once = cost.count(jax.grad(_loss), _PARAMS, _X, weights=0)
  report = cost.count(step, _PARAMS, _array(7, *_X.shape), weights=0)
  assert _macs(report) == {k: 7 * n for k, n in _macs(once).items()} | {
    "update": 0
  }
  assert _roles(report) == _roles(once)


@pytest.mark.parametrize(
  "optimizer",
  [
    optax.sgd(0.1),
    optax.sgd(0.1, momentum=0.9),
    optax.adamw(1e-3),
    optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3)),
  ],
  ids=["sgd", "momentum", "adamw", "clipped"],
)
def test_an_update_has_no_products(optimizer):
  state = jax.eval_shape(optimizer.init, _PARAMS)

  def step(params, state, x):
    grads = jax.grad(_loss)(params, x)
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  report = cost.training(step, _PARAMS, state, _X, weights=0, states=1)
  once = cost.count(jax.grad(_loss), _PARAMS, _X, weights=0)
  assert _macs(report) == _macs(once) | {"update": 0}
  assert _roles(report) == _roles(once)
  n = sum(x.size for x in jax.tree.leaves(_PARAMS))
  assert report.phases()["update"]["elementwise"] >= 2 * n
  assert sum(x.size for x in report.states.values()) == sum(
    x.size for x in jax.tree.leaves(state)
  )
  assert report.inputs == [(4,)]


def test_a_scope_says_what_the_update_is():
  def step(params, x):
    grads = jax.grad(_loss)(params, x)
    with jax.named_scope(cost.UPDATE):
      return jax.tree.map(lambda p, g: 0.9 * p - g, params, grads)

  report = cost.training(step, _PARAMS, _X, weights=0)
  n = sum(x.size for x in jax.tree.leaves(_PARAMS))
  assert report.phases()["update"]["elementwise"] == 2 * n


def test_products_of_parameters_count_at_each_step_of_training():
  def loss(params, x):
    return ((x @ (params["turn"] @ params["kernel"])) ** 2).sum()

  params = {"turn": _array(4, 4), "kernel": _array(4, 8)}
  here = cost.count(jax.grad(loss), params, _X, weights=0, training=True)
  product = _BATCH * 4 * 8
  assert _macs(here)["forward"] == product + 4 * 4 * 8
  assert _macs(here)["backward"] == product + 2 * 4 * 4 * 8
  assert {r.gradient_of for r in here.layers if not r.params} == {""}
  ahead = cost.count(jax.grad(loss), params, _X, weights=0)
  assert _macs(ahead)["forward"] == product


# --- Whose gradient a product makes -------------------------------------------


def test_each_product_is_named_after_its_layer():
  report = cost.count(jax.grad(_loss), _PARAMS, _X, weights=0)
  assert _roles(report) == [
    ("layer0", "kernel"),
    ("layer1", "kernel"),
    ("layer1", "x"),
    ("layer2", "kernel"),
    ("layer2", "x"),
  ]
  first = [r for r in report.layers if r.name == "layer0"]
  assert [r.phase for r in first] == ["forward", "backward"]
  assert first[1].gradient_of == "layer0/kernel"
  assert "layer0 (backward, dkernel)" in report.to_table(200)


def test_low_bit_layers_keep_their_bits_on_the_way_back():
  class Net(nnx.Module):
    def __init__(self, rngs):
      self.first = nnx.Linear(4, 8, rngs=rngs)
      self.second = jbin.nn.Linear(
        8,
        2,
        input_quantizer=jbin.quantizers.sign(),
        kernel_quantizer=jbin.quantizers.xnor(),
        rngs=rngs,
      )

    def __call__(self, x):
      return self.second(self.first(x))

  model = nnx.eval_shape(lambda: Net(nnx.Rngs(0)))
  loss = lambda model, x: (model(x) ** 2).sum()
  report = cost.count(nnx.grad(loss), model, _X, training=True)
  assert report.phases()["forward"]["macs"] == {(32, 32): 160, (1, 1): 80}
  assert report.phases()["backward"]["macs"] == {
    (32, 1): 160,
    (32, 32): 160,
  }
  assert _roles(report) == [
    ("first", "kernel"),
    ("second", "kernel"),
    ("second", "x"),
  ]


def test_layers_of_one_shape_and_one_input_are_told_apart():
  names = ("query", "key", "value")
  params = {name: {"kernel": _array(4, 4)} for name in names}

  def loss(params, x):
    q, k, v = (x @ params[name]["kernel"] for name in names)
    return ((jax.nn.softmax(q @ k.T) @ v) ** 2).sum()

  report = cost.count(jax.grad(loss), params, _X, weights=0)
  found = [what for what in _roles(report) if what[1] == "kernel"]
  assert found == [("key", "kernel"), ("query", "kernel"), ("value", "kernel")]
  # Those of the two products of activations have no layer.
  assert sum(what == "?" for _, what in _roles(report)) == 4


def test_scanned_layers_are_one():
  def loss(w, x):
    return (lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0] ** 2).sum()

  for step in (jax.grad(loss), lambda w, x: w - jax.grad(loss)(w, x)):
    report = cost.count(step, _array(6, 4, 4), _X, weights=0)
    backward = [r for r in report.layers if r.phase == "backward"]
    assert sorted(r.gradient_of for r in backward) == ["", "arg0"]
    assert {r.repeats for r in backward} == {6}
    assert _macs(report)["backward"] == 2 * 6 * _BATCH * 4 * 4


def test_a_weight_used_twice_has_two_gradients():
  loss = lambda w, x: (jnp.tanh(x @ w) @ w).sum()
  report = cost.count(jax.grad(loss), _array(4, 4), _X, weights=0)
  assert [r.gradient_of for r in report.layers if not r.params] == ["arg0"] * 2


def test_a_gradient_that_meets_no_parameter_keeps_its_place():
  def per_example(w, x):
    grads = jax.vmap(jax.grad(lambda w, x: (x @ w).sum()), (None, 0))(w, x)
    return jnp.sqrt((grads**2).sum((1, 2)))

  report = cost.count(per_example, _array(4, 3), _array(5, 2, 4), weights=0)
  (record,) = [r for r in report.layers if r.phase == "backward"]
  assert record.gradient_of == ""
  assert "transpose(jvp" in record.name


# --- A config's step ----------------------------------------------------------


@pytest.fixture
def tiny(tiny_config):
  return lambda **changes: counting.training_report(tiny_config(**changes))


def test_a_configs_step_is_counted(tiny_config, tiny):
  report = tiny()
  forward = counting.cost_report(tiny_config())
  macs = _macs(report)
  once = {r.name: r.macs for r in forward.layers}
  assert macs == {
    "forward": 64 * sum(once.values()),
    "backward": 64 * (2 * sum(once.values()) - once["conv"]),
    "update": 0,
  }
  assert _roles(report) == [
    ("conv", "kernel"),
    ("head", "kernel"),
    ("head", "x"),
  ]
  assert report.inputs == [(8, 8, 1), ()]
  moments = sum(2 * x.size for x in report.parameters.values())
  found = [x for x in report.states.values() if x.kind == "optimizer"]
  assert sum(x.size for x in found) == moments + 1
  assert report.phases()["update"]["elementwise"] > moments


def test_a_configs_step_is_the_loops(tiny_config):
  """The same equations as the step that the loop compiles."""
  step = program.of(tiny_config())
  text = step.compile(sharding.make_mesh(1, 1)).as_text()
  assert "dot" in text
  assert "transpose(jvp" in text


def test_no_data_is_needed_when_the_size_is_known(tiny):
  model = {"name": "tiny", "num_classes": 10}
  report = tiny(data={"name": "nowhere"}, image_size=8, model=model)
  assert report.phases()["backward"]["ace"] > 0


def test_a_teacher_is_counted_beside_its_student(tiny_config, tmp_path):
  values = config_lib.to_mapping(tiny_config())
  (tmp_path / "config.json").write_text(json.dumps(values))
  task = {"name": "distillation", "teacher_workdir": str(tmp_path)}
  alone, report = (
    counting.training_report(tiny_config(**changes))
    for changes in ({}, {"task": task})
  )
  more = _macs(report)["forward"] - _macs(alone)["forward"]
  assert more == _macs(alone)["forward"]
  assert _macs(report)["backward"] == _macs(alone)["backward"]
  names = {r.name for r in report.layers}
  assert {"conv", "head", "teacher/conv", "teacher/head"} == names


def test_json_and_text_have_the_phases(tiny):
  report = tiny()
  table = json.loads(json.dumps(report.to_json()))["training"]
  assert list(table["phases"]) == ["forward", "backward", "update"]
  backward = table["phases"]["backward"]
  assert backward["macs"] == sum(backward["macs_by_bit_pair"].values())
  assert table["peak"]["bytes"] == report.training.peak.bytes
  assert "memory_check" not in table
  for text in (report.to_table(100), report.to_markdown()):
    assert "backward" in text
    assert "kept from forward for later phases" in text


def test_a_forward_pass_has_no_training():
  report = cost.count(lambda w, x: x @ w, _array(4, 3), _X, weights=0)
  assert list(report.phases()) == ["forward"]
  assert "training" not in report.to_json()
