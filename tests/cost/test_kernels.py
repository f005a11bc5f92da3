"""Opaque kernels: a registered cost, or a line in bold."""

import math

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax import lax
from jax.experimental import pallas as pl
from jax.extend import core

from jbin import bits, cost, errors
from jbin.cost import _kernels

X = jax.ShapeDtypeStruct((4, 8), jnp.float32)
W = jax.ShapeDtypeStruct((8, 5), jnp.float32)
MACS = 4 * 8 * 5


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch):
  """What a test registers is gone after it."""
  monkeypatch.setattr(_kernels, "_KERNELS", {})


def _multiply(x, w, out):
  out[...] = x[...] @ w[...]


def _pallas(x, w):
  shape = jax.ShapeDtypeStruct((x.shape[0], w.shape[1]), jnp.float32)
  return pl.pallas_call(
    _multiply, out_shape=shape, name="my_matmul", interpret=True
  )(x, w)


def _foreign(x, w):
  shape = jax.ShapeDtypeStruct((x.shape[0], w.shape[1]), jnp.float32)
  return jax.ffi.ffi_call("my_matmul", shape)(x, w, layout=1)


_own = core.Primitive("my_matmul")
_own.def_abstract_eval(
  lambda x, w: jax.core.ShapedArray((x.shape[0], w.shape[1]), x.dtype)
)

KERNELS = {
  "pallas_call": _pallas,
  "ffi_call": _foreign,
  "my_matmul": _own.bind,
}


def _matmul(call):
  (m, k), (_, n) = (x.shape for x in call.inputs)
  return [cost.Product(m * k * n)]


@pytest.mark.parametrize("primitive", KERNELS)
def test_a_kernel_without_a_cost_is_listed_in_bold(primitive):
  kernel = KERNELS[primitive]
  report = cost.count(kernel, X, W, weights=1)
  (row,) = report.not_counted
  assert report.macs == {}
  assert row.matrix_like
  assert row.primitive.split() == list(dict.fromkeys([primitive, "my_matmul"]))
  assert f"NOT COUNTED: {row.primitive}" in str(report)


@pytest.mark.parametrize("primitive", KERNELS)
def test_a_registered_cost_is_counted(primitive):
  cost.kernel("my_matmul")(_matmul)

  def run(x, w):
    with jax.named_scope("outer"):
      return KERNELS[primitive](
        bits.tag(jnp.round(x), 4), bits.tag(jnp.sign(w), 1)
      )

  report = cost.count(run, X, W, weights=1)
  assert report.macs == {(4, 1): MACS}
  assert report.not_counted == []
  assert report.weights_by_bits == {1: 40}
  (record,) = report.layers
  assert (record.name, record.kind) == ("arg1", "dense")
  assert (record.in_shape, record.out_shape) == ((8,), (5,))
  assert record.primitive.endswith("my_matmul")
  assert (record.outputs, record.weights) == (20, 40)
  # Two activations: named by the place.
  (record,) = cost.count(run, X, W).layers
  assert (record.kind, record.weights) == ("matmul", 0)
  assert record.name.startswith("outer")


def test_a_call_says_what_it_gets():
  seen = []

  @cost.kernel("my_matmul")
  def _(call):
    seen.append(call)
    return [cost.Product(1)]

  cost.count(lambda x, w: _foreign(bits.tag(x, 3), w), X, W)
  (call,) = seen
  assert [x.shape for x in call.inputs] == [(4, 8), (8, 5)]
  assert [x.dtype for x in call.outputs] == [jnp.float32]
  assert call.bits == (3, 32)
  assert dict(call.params["attributes"]) == {"layout": 1}


def test_loops_and_branches_multiply_a_kernel():
  cost.kernel("my_matmul")(_matmul)
  square = jax.ShapeDtypeStruct((8, 8), jnp.float32)

  def net(p, x, w):
    step = lambda x, _: (_pallas(x, w), None)
    deep = lambda x: lax.scan(step, x, None, length=6)[0]
    return lax.cond(p, deep, lambda x: x, x)

  p = jax.ShapeDtypeStruct((), jnp.bool_)
  report = cost.count(net, p, X, square, weights=2)
  assert report.macs == {(32, 32): 6 * 4 * 8 * 8}
  assert report.branches[0].macs == (0, 6 * 4 * 8 * 8)


def _signs(call):
  """As the doc string of `cost.kernel` has it."""
  *batch, m, words = call.inputs[0].shape
  n = call.inputs[1].shape[-1]
  macs = math.prod(batch) * m * 32 * words * n
  return [cost.Product(macs, lhs_bits=1, rhs_bits=1)]


def test_signs_packed_in_words():
  cost.kernel("my_matmul")(_signs)

  class Packed(nnx.Module):
    def __init__(self):
      self.kernel = nnx.Param(jnp.zeros((2, 5), jnp.uint32))

    def __call__(self, x):
      return _foreign(x, self.kernel[...])

  words = jax.ShapeDtypeStruct((4, 2), jnp.uint32)
  report = cost.count(Packed(), words)
  assert report.macs == {(1, 1): 4 * 64 * 5}
  assert report.ace == report.ace_strict == 4 * 64 * 5
  # 320 signs in 10 words.
  assert report.weights_by_bits == {1: 320}
  assert report.weight_bytes == 40
  assert report.params["kernel"] == 320
  assert (report.layers[0].lhs.size, report.layers[0].rhs.size) == (256, 320)


def test_parts_of_one_packed_weight_are_the_whole_weight():
  cost.kernel("my_matmul")(_signs)
  words = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.uint32)
  net = lambda x, w: _foreign(x, w[0]) + _foreign(x, w[1])
  report = cost.count(net, words(4, 2), words(3, 2, 5), weights=1)
  assert report.macs == {(1, 1): 2 * 4 * 64 * 5}
  assert report.weights_by_bits == {1: 32 * 30}
  assert report.params["total"] == 32 * 30
  assert report.memory().total_bytes == 4 * 30


def test_a_kernel_under_vmap():
  cost.kernel("my_matmul")(_signs)

  def net(x, w):
    shape = jax.ShapeDtypeStruct((4, 5), jnp.float32)
    call = jax.ffi.ffi_call("my_matmul", shape, vmap_method="expand_dims")
    return jax.vmap(call, (0, None))(x, w)

  words = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.uint32)
  report = cost.count(net, words(6, 4, 2), words(2, 5), weights=1)
  assert report.macs == {(1, 1): 6 * 4 * 64 * 5}


@pytest.mark.parametrize("training", [False, True])
def test_a_kernel_on_parameters_alone_is_done_ahead(training):
  """As a dot_general on them is."""
  cost.kernel("my_matmul")(_matmul)
  square = jax.ShapeDtypeStruct((8, 8), jnp.float32)
  found = [
    cost.count(
      lambda x, w, r, product=product: x @ product(w, r),
      *(X, square, square),
      weights=(1, 2),
      training=training,
    )
    for product in (_foreign, jnp.matmul)
  ]
  assert found[0].macs == found[1].macs
  assert found[0].on_parameters == found[1].on_parameters
  assert (found[0].on_parameters == 2 * 512) is not training


def test_several_products_and_none():
  @cost.kernel("my_matmul")
  def _(call):
    return [cost.Product(7), cost.Product(9, lhs=1, rhs=0)]

  report = cost.count(_pallas, X, W, weights=1)
  assert [r.macs for r in report.layers] == [7, 9]
  assert [r.kind for r in report.layers] == ["dense", "matmul"]
  _kernels._KERNELS.clear()
  cost.kernel("my_matmul")(lambda call: [])
  report = cost.count(_pallas, X, W, weights=1)
  assert (report.layers, report.not_counted) == ([], [])


def test_a_wrong_registration_is_named():
  cost.kernel("my_matmul")(_matmul)
  with pytest.raises(ValueError, match="'my_matmul' is registered twice"):
    cost.kernel("my_matmul")(_matmul)
  for wrong in ([cost.Product(1, rhs=2)], [12], cost.Product(1), 12, None):
    _kernels._KERNELS.clear()
    cost.kernel("my_matmul")(lambda call, wrong=wrong: wrong)
    with pytest.raises(errors.UserError, match=r"my_matmul.*must give"):
      cost.count(_pallas, X, W)


def test_a_cost_that_fails_is_named_with_the_shapes():
  cost.kernel("my_matmul")(lambda call: call.inputs[2])
  said = r"my_matmul.* operands \(4, 8\), \(8, 5\), raises IndexError"
  with pytest.raises(errors.UserError, match=said):
    cost.count(_pallas, X, W)
