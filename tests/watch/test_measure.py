"""What `watch.measure` says, against the formulas in numpy."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jbin import errors, nn, quantizers, schedules, watch
from tests.quantizers.rows import ROWS

SHAPE = (6, 5)


def _sign(w):
  return np.where(w >= 0, 1, -1)


def _magnitude(w):
  return abs(w).mean(0)


def _tern(w):
  return np.sign(np.sign(w + 0.05) + np.sign(w - 0.05))


def _twn(w):
  return np.where(w > 0.7 * abs(w).mean(), 1, 0) - (w < -0.7 * abs(w).mean())


def _twn_scale(w):
  return abs(w)[_twn(w) != 0].mean()


@dataclasses.dataclass(frozen=True)
class Case:
  """A quantizer: its codes, scales and window in numpy; None: none."""

  quantizer: quantizers.Quantizer
  codes: Callable[[Any], Any]
  scale: Callable[[Any], Any] | None = None
  window: float | None = 1.0


CASES = [
  Case(quantizers.sign(), _sign),
  Case(quantizers.sign(clip=0.5), _sign, window=0.5),
  Case(quantizers.sign(schedules.linear(0.5, 1.5)), _sign, window=0.75),
  Case(quantizers.sign(clip=None), _sign, window=None),
  Case(quantizers.sign(zero=0.0), lambda w: w > 0),  # has no codes
  Case(quantizers.xnor(), _sign, _magnitude),
  Case(quantizers.xnor(()), _sign, lambda w: abs(w).mean()),
  Case(quantizers.delayed(quantizers.xnor(), 0.5), _sign, _magnitude),
  Case(quantizers.reste_weight(), _sign, lambda w: abs(w).mean(), window=1.5),
  Case(quantizers.ste_tern(0.05), _tern),
  Case(quantizers.twn(), _twn, _twn_scale, window=None),
]


def _data():
  rng = np.random.default_rng(3)
  before, grad = rng.normal(size=(2, *SHAPE)).astype(np.float32)
  before[0, :3] = 0
  grad[:, 1] = 0
  return before * 1.3, grad, (before * 1.3 - 0.4 * grad)


def _given(layer, kernels):
  """States of `layer` with these kernels in place of its own."""
  state = nnx.state(layer, nnx.Param)
  made = []
  for kernel in kernels:
    flat = [
      (path, leaf.replace(jnp.asarray(kernel) if path == ("kernel",) else leaf))
      for path, leaf in nnx.to_flat_state(state)
    ]
    made.append(nnx.from_flat_state(flat))
  return made


def _layer(quantizer, progress=0.25):
  layer = nn.Linear(*SHAPE, kernel_quantizer=quantizer, rngs=nnx.Rngs(0))
  nnx.update(layer, schedules.set_progress(nnx.state(layer), progress))
  return layer


@pytest.mark.parametrize("case", CASES, ids=lambda case: repr(case.quantizer))
@pytest.mark.parametrize("compiled", [False, True])
def test_numbers_equal_numpy(case, compiled):
  before, grad, after = _data()
  layer = _layer(case.quantizer)
  graph, _, rest = nnx.split(layer, nnx.Param, ...)

  def run(old, grads, new):
    model = nnx.merge(graph, old, rest, copy=True)
    return watch.measure(model, old, grads, new, 2.0)

  run = jax.jit(run) if compiled else run
  found = run(*_given(layer, (before, grad, after)))["kernel"]
  want = {
    "weights": 30,
    "flip_ratio": (case.codes(before) != case.codes(after)).mean(),
    "zero_gradient": (grad == 0).mean(),
    "gradient_instability": np.var(abs(grad), ddof=1),
  }
  if case.window is not None:
    want["beyond_clip"] = (abs(after) > case.window).mean()
  if case.quantizer.bits == 1:
    root = np.sign(after) * abs(np.float64(after)) ** 0.5
    want["estimating_error"] = np.linalg.norm(np.sign(after) - root)
  if case.scale is not None:
    scale = case.scale(after)
    want["scale_mean"] = np.mean(scale)
    want["scale_min"], want["scale_max"] = np.min(scale), np.max(scale)
  assert set(found) == set(want)
  for name, number in want.items():
    assert found[name].dtype == jnp.float32
    np.testing.assert_allclose(found[name], number, rtol=1e-5, err_msg=name)


def test_what_is_learned_is_that_of_each_side():
  """LSQ's step moves codes, though the kernel stays."""
  kernel, grad, _ = _data()
  layer = _layer(quantizers.lsq(4))
  old, slopes, new = _given(layer, (kernel, grad, kernel))
  new["kernel_quantizer"]["learned"]["step"] = nnx.Param(jnp.float32(0.1))
  found = watch.measure(layer, old, slopes, new)["kernel"]
  step = layer.kernel_quantizer.learned["step"][...]
  codes = [np.clip(np.round(kernel / s), -8, 7) for s in (step, 0.1)]
  assert 0 < (codes[0] != codes[1]).mean() == found["flip_ratio"]
  assert found["scale_mean"] == np.float32(0.1)
  assert not {"beyond_clip", "estimating_error"} & set(found)


@pytest.mark.parametrize("name", ROWS)
def test_every_quantizer_can_be_watched(name):
  """As a kernel's: nothing changes, everything is finite, shares are shares."""
  quantizer = ROWS[name][0].quantizer
  layer = nn.Conv(
    *SHAPE, (2,), kernel_quantizer=quantizer, rngs=nnx.Rngs(0)
  )  # three axes: some want them
  states = _given(layer, [np.stack([k, -k]) for k in _data()])
  graph, before = nnx.split(layer)
  before = jax.tree.map(np.asarray, nnx.to_pure_dict(before))
  run = jax.jit(
    lambda state, *states: watch.measure(nnx.merge(graph, state), *states)
  )
  found = run(nnx.state(layer), *states)["kernel"]
  assert {"weights", "zero_gradient", "gradient_instability"} <= set(found)
  for key, number in found.items():
    assert np.isfinite(number), key
    if key in ("flip_ratio", "beyond_clip", "zero_gradient"):
      assert 0 <= number <= 1
  jax.tree.map(
    np.testing.assert_array_equal,
    before,
    nnx.to_pure_dict(nnx.state(layer)),
  )


class _Net(nnx.Module):
  def __init__(self, rngs):
    self.blocks = nnx.List(
      [
        nn.Linear(4, 4, kernel_quantizer=quantizers.xnor(), rngs=rngs)
        for _ in range(2)
      ]
    )
    self.embed = nn.Embed(
      3, 4, embedding_quantizer=quantizers.sign(), rngs=rngs
    )
    self.head = nnx.Linear(4, 2, rngs=rngs)

  def __call__(self, tokens):
    x = self.embed(tokens)
    for block in self.blocks:
      x = block(x)
    return self.head(x)


def test_layers_have_paths_and_totals_weigh_them():
  model = _Net(nnx.Rngs(0))
  before = nnx.state(model, nnx.Param)
  grads = nnx.grad(lambda model: model(jnp.arange(3)).sum())(model)
  after = jax.tree.map(lambda w, g: w - 0.1 * g, before, grads)
  layers = watch.measure(model, before, grads, after)
  assert list(layers) == ["blocks/0", "blocks/1", "embed/embedding"]
  assert [layer["weights"] for layer in layers.values()] == [16, 16, 12]
  total = watch.total(layers)
  assert set(total) == {
    *("flip_ratio", "beyond_clip", "zero_gradient"),
    *("estimating_error", "gradient_instability"),
  }
  each = [layer["flip_ratio"] for layer in layers.values()]
  np.testing.assert_allclose(
    total["flip_ratio"], np.average(each, weights=[16, 16, 12]), rtol=1e-6
  )
  each = [layer["estimating_error"] for layer in layers.values()]
  np.testing.assert_allclose(total["estimating_error"], sum(each), rtol=1e-6)
  assert watch.total({}) == {}


def test_layers_of_a_stack_are_watched_one_by_one():
  @nnx.vmap(in_axes=0, out_axes=0)
  def make(rngs):
    quantizer = quantizers.delayed(quantizers.xnor(()), 0.5)
    return nn.Linear(*SHAPE, kernel_quantizer=quantizer, rngs=rngs)

  stack = make(nnx.Rngs(0).split(3))
  before, grad, _ = _data()
  kernels = np.stack([before, 2 * before, 3 * before])
  grads = np.stack([grad, grad, 2 * grad])
  old, slopes, new = _given(stack, (kernels, grads, kernels - grads))
  found = watch.measure(stack, old, slopes, new)["kernel"]
  parts = [
    watch.measure(layer, *_given(layer, (w, g, w - g)))["kernel"]
    for layer in [_layer(quantizers.xnor(()))]
    for w, g in zip(kernels, grads, strict=True)
  ]
  join = {
    "weights": sum,
    "estimating_error": sum,
    "gradient_instability": sum,
    "scale_min": min,
    "scale_max": max,
  }
  for name, number in found.items():
    each = [float(part[name]) for part in parts]
    want = join.get(name, np.mean)(each)
    np.testing.assert_allclose(number, want, rtol=1e-5, err_msg=name)


def test_sharded_kernels_give_the_same():
  mesh = jax.make_mesh((2, 4), ("data", "fsdp"))
  rng = np.random.default_rng(0)
  before, grad = rng.normal(size=(2, 16, 8)).astype(np.float32)
  layer = nn.Linear(16, 8, kernel_quantizer=quantizers.xnor(), rngs=nnx.Rngs(0))
  states = _given(layer, (before, grad, before - grad))
  want = watch.measure(layer, *states)["kernel"]
  split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
  moved = _given(
    layer, [jax.device_put(k, split) for k in (before, grad, before - grad)]
  )
  graph, _, rest = nnx.split(layer, nnx.Param, ...)
  run = jax.jit(
    lambda old, *others: watch.measure(
      nnx.merge(graph, old, rest, copy=True), old, *others
    )
  )
  whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  moved = [
    jax.tree.map(lambda x: x if x.ndim > 1 else jax.device_put(x, whole), state)
    for state in moved
  ]
  for name, number in run(*moved)["kernel"].items():
    np.testing.assert_allclose(number, want[name], rtol=1e-5, err_msg=name)


def test_a_part_of_the_parameters_is_measured():
  """Those that are trained: the other layers are left out."""

  class Two(nnx.Module):
    def __init__(self):
      self.a, self.b = (_layer(quantizers.sign()) for _ in range(2))

  model = Two()
  states = [nnx.state(model, nnx.Param) for _ in range(3)]
  whole = watch.measure(model, *states)
  part = nnx.All(nnx.Param, nnx.PathContains("a"))
  before, grads, after = (nnx.state(model, part) for _ in range(3))
  assert list(whole) == ["a", "b"]
  for given in ((before, grads, after), (states[0], grads, states[2])):
    found = watch.measure(model, *given)
    assert list(found) == ["a"]
    jax.tree.map(np.testing.assert_array_equal, found["a"], whole["a"])
  for given in ((before, states[1], states[2]), (states[0], states[1], after)):
    with pytest.raises(errors.UserError, match="b/kernel has a gradient, but"):
      watch.measure(model, *given)
