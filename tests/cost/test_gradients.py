"""Which parameter's gradient a backward product makes, in awkward places."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

from jbin import cost


def _array(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


_W, _X = _array(8, 8), _array(4, 8)


def _loss(w, v, x):
  return (jnp.tanh(x @ w) @ v).sum()


def _owners(report):
  """The parameters whose gradients backward products make, sorted."""
  rows = [r for r in report.layers if r.phase == "backward" and not r.params]
  return sorted(r.gradient_of for r in rows)


def test_a_product_of_another_size_is_nobodys_gradient():
  """That of the mask goes back from scores, which are no parameter's."""

  def loss(w, mask, x):
    h = x @ w
    return (jax.nn.softmax(h @ h.T + mask) @ h).sum()

  both = jax.grad(loss, argnums=(0, 1))
  report = cost.count(both, _W, _array(4, 4), _X, weights=0)
  assert _owners(report) == ["", "", "", "", "arg0"]


@pytest.mark.parametrize(
  ("transform", "owners"),
  [
    (lambda f: jax.grad(f, (0, 1)), ["arg0", "arg1"]),
    (lambda f: jax.value_and_grad(f, (0, 1)), ["arg0", "arg1"]),
    # Alone it may be either's.
    (lambda f: jax.grad(f, (1,)), [""]),
  ],
)
def test_arguments_are_told_by_their_place(transform, owners):
  report = cost.count(transform(_loss), _W, _W, _X, weights=(0, 1))
  assert _owners(report) == owners


def test_layers_are_told_by_the_place_of_their_argument():
  def loss(w, x, v):
    return _loss(w["kernel"], v["kernel"], x)

  layer = {"kernel": _W}
  both = jax.grad(loss, argnums=(0, 2))
  report = cost.count(both, layer, _X, layer, weights=(0, 2))
  assert _owners(report) == ["arg0/kernel", "arg2/kernel"]


@pytest.mark.parametrize("add_up", [lax.psum, lax.pmean])
@pytest.mark.parametrize("updates", [False, True])
def test_devices_add_up_a_gradient(add_up, updates):
  def step(w, v, x):
    grads = add_up(jax.grad(_loss, (0, 1))(w, v, x), "data")
    if not updates:
      return grads
    return jax.tree.map(lambda p, g: p - 0.1 * g, (w, v), grads)

  mesh = jax.sharding.AbstractMesh((4,), ("data",))
  shared = jax.shard_map(
    step,
    mesh=mesh,
    in_specs=(P(), P(), P("data")),
    out_specs=P(),
    check_vma=False,
  )
  report = cost.count(shared, _W, _W, _X, weights=(0, 1))
  assert _owners(report) == ["arg0", "arg1"]
