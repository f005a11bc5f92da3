"""A state, or a draw, times a weight is computed at each run."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax import lax

from jbin import cost

_W = jax.ShapeDtypeStruct((8, 8), jnp.float32)
_H = jax.ShapeDtypeStruct((4, 8), jnp.float32)
_WHERE = jax.ShapeDtypeStruct((), jnp.int32)
_PICKED = {
  "itself": lambda w, h: h @ w,
  "the right": lambda w, h: w @ h.T,
  "scaled": lambda w, h: (w * h[:1]) @ w,
  "tanh": lambda w, h: jnp.tanh(h) @ w,
  "scan": lambda w, h: lax.scan(lambda c, r: (c, r), 0, h)[1] @ w,
  "jit": jax.jit(lambda w, h: h @ w),
}


@pytest.mark.parametrize("net", _PICKED)
def test_a_state_times_a_weight_is_counted(net):
  report = cost.count(_PICKED[net], _W, _H, weights=0, states=1)
  n = 8 if net == "scaled" else 4
  assert report.macs == {(32, 32): n * 64}
  assert report.weights_by_bits == {32: 64}
  assert report.on_parameters == (64 if net == "scaled" else 32) * (
    net in ("scaled", "tanh")
  )


@pytest.mark.parametrize(
  "pick",
  [
    lambda w, i: w[i],
    lambda w, i: lax.dynamic_slice(w, (i, 0), (1, 8)),
    lambda w, i: jnp.where(i > 0, w, -w),
    lambda w, i: lax.cond(i > 0, lambda w: w, lambda w: -w, w),
  ],
)
def test_what_a_state_chooses_changes_too(pick):
  net = lambda w, i: pick(w, i) @ w
  report = cost.count(net, _W, _WHERE, weights=0, states=1)
  assert sum(report.macs.values()) >= 64


def test_what_a_state_and_a_weight_make_is_an_activation():
  net = lambda w, v, h: jnp.tanh(h @ w) @ v
  report = cost.count(net, _W, _W, _H, weights=(0, 1), states=2)
  assert [r.params for r in report.layers] == [("arg0",), ("arg1",)]
  assert report.elementwise_by_primitive == {"tanh": 32}
  assert report.activations.bytes > 0


def test_a_recurrent_cell_costs_the_same_whatever_its_carry_is_called():
  cell = nnx.eval_shape(lambda: nnx.GRUCell(8, 8, rngs=nnx.Rngs(0)))
  x = jax.ShapeDtypeStruct((2, 8), jnp.float32)
  named = cost.count(cell, x, x, states=0).macs
  assert named == cost.count(cell, x, x).macs == {(32, 32): 2 * 6 * 64}


class _Held(nnx.Module):
  """A kernel that meets what the module holds, or draws."""

  def __init__(self, kind, rngs):
    self.kernel = nnx.Param(jnp.ones((8, 8)))
    self.draws = rngs.default
    if kind is not None:
      self.held = kind(jnp.ones((4, 8)))

  def __call__(self):
    if hasattr(self, "held"):
      return self.held[...] @ self.kernel[...]
    return jax.random.normal(self.draws(), (4, 8)) @ self.kernel[...]


@pytest.mark.parametrize(
  ("kind", "counts"),
  [
    (nnx.Variable, True),
    (nnx.Cache, True),
    (None, True),
    (nnx.Param, False),  # both are parameters: done once
    (nnx.BatchStat, False),
  ],
)
def test_the_variables_of_a_module(kind, counts):
  module = nnx.eval_shape(lambda: _Held(kind, nnx.Rngs(0)))
  report = cost.count(module)
  assert report.macs == ({(32, 32): 4 * 64} if counts else {})


def test_parameters_alone_are_still_done_once():
  net = lambda x, w, v: x @ ((jnp.tanh(w) @ v) @ v)
  report = cost.count(net, _H, _W, _W, weights=(1, 2))
  assert report.macs == {(32, 32): 4 * 64}
  assert report.on_parameters == 2 * 2 * 512 + 64


def test_a_module_in_two_arguments_is_one():
  def make():
    rngs = nnx.Rngs(0)
    layer, norm = nnx.Linear(8, 8, rngs=rngs), nnx.BatchNorm(8, rngs=rngs)
    return nnx.Sequential(layer, norm)

  one, other = nnx.eval_shape(make), nnx.eval_shape(make)
  net = lambda a, b, x: a(b(x))
  whole = cost.count(net, one, one, _H)
  assert whole.params["total"] == 72 + 16
  assert (whole.weights_by_bits, whole.batch_stats) == ({32: 64}, 16)
  assert whole.macs == {(32, 32): 2 * 4 * 64}
  assert [r.name for r in whole.layers] == ["arg0/layers/0"] * 2
  apart = cost.count(net, one, other, _H)
  assert apart.params["total"] == 2 * whole.params["total"]
  assert (apart.weights_by_bits, apart.batch_stats) == ({32: 128}, 32)
