"""A figure is that of the mathematics: wrappers do not change it."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from jbin import bits, cost

_X = jax.ShapeDtypeStruct((4, 6, 6, 8), jnp.float32)
_W = jax.ShapeDtypeStruct((3, 3, 8, 8), jnp.float32)
_DIMS = ("NHWC", "HWIO", "NHWC")


@jax.custom_vjp
def _on_codes(value, codes, scale, kernel):
  """A product that reads the codes; `value` is there for its gradient."""
  del value
  y = lax.conv_general_dilated(
    codes,
    kernel,
    (1, 1),
    "SAME",
    dimension_numbers=_DIMS,
    preferred_element_type=jnp.int32,
  )
  return y.astype(jnp.float32) * scale


_on_codes.defvjp(
  lambda *args: (_on_codes(*args), None), lambda _, g: (g, None, None, None)
)


def _sign(x):
  return bits.tag(jnp.where(x >= 0, 1, -1).astype(jnp.int8), 1)


def block(x, w):
  """One low-bit layer: 2-bit activations by 1-bit weights, and a norm."""
  # Never used by the product: a float product here would be dead code.
  value = jnp.einsum("nhwc,ck->nhwk", x, jnp.ones((8, 8)))
  codes = bits.tag(jnp.clip(jnp.round(x), -2, 1).astype(jnp.int8), 2)
  scale = jnp.mean(jnp.abs(w))
  y = _on_codes(value, codes, scale, _sign(w))
  return bits.mark(y * 0.5 + x, "norm", per_element=2)


def _vmapped(x, w):
  one = lambda a: block(a[None], w)[0]
  return jax.vmap(one)(x)


def _scanned(x, w):
  return lax.scan(lambda x, w: (block(x, w), None), x, w[None])[0]


def _no_op(*args):
  return block(*args)


def _cond(x, w):
  return lax.cond(lax.optimization_barrier(True), block, block, x, w)


@jax.custom_vjp
def _custom(x, w):
  return block(x, w)


_custom.defvjp(lambda x, w: (block(x, w), None), lambda _, g: (g, None))

_jvp = jax.custom_jvp(block)
_jvp.defjvp(lambda primals, tangents: (block(*primals), tangents[0]))

_own_vmap = jax.custom_batching.custom_vmap(block)
_own_vmap.def_vmap(lambda n, batched, x, w: (_vmapped(x, w), True))


def _while(x, w):
  body = lambda c: (c[0] + 1, block(c[1], w))
  return lax.while_loop(lambda c: c[0] < 1, body, (0, x))[1]


WRAPPERS = {
  "no-op": _no_op,
  "partial": functools.partial(block),
  "jit": jax.jit(block),
  "jit of jit": jax.jit(jax.jit(block)),
  "checkpoint": jax.checkpoint(block),
  "scan": _scanned,
  "vmap": _vmapped,
  "cond": _cond,
  "custom_vmap": _own_vmap,
  "composite": lax.composite(block, "block"),
  "custom_vjp": _custom,
  "custom_jvp": _jvp,
  "named_scope": jax.named_scope("outer")(block),
  "remat of jit of vmap": jax.checkpoint(jax.jit(_vmapped)),
}


@pytest.fixture(scope="module")
def plain():
  return cost.count(block, _X, _W, weights=1, name="block")


def test_the_plain_block(plain):
  macs = 4 * 6 * 6 * 9 * 8 * 8
  assert plain.macs == {(2, 1): macs}
  assert plain.ace == plain.ace_strict == 2 * macs
  assert plain.elementwise == {"norm": 2 * 4 * 6 * 6 * 8}
  assert plain.weights_by_bits == {1: 576}
  assert plain.not_counted == []


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_wrapper_changes_no_figure(plain, wrapper):
  report = cost.count(WRAPPERS[wrapper], _X, _W, weights=1, name="block")
  found, want = report.to_json(), plain.to_json()
  for table in (found, want):  # a scan copies the carry that it is given
    for name in ("activations_bytes", "activations_tagged_bytes", "peak_bytes"):
      del table["memory"][name]
  assert found == want


def test_a_scan_is_its_length_times_the_body(plain):
  stacked = jax.ShapeDtypeStruct((5, *_W.shape), _W.dtype)

  def net(x, w):
    return lax.scan(lambda x, w: (block(x, w), None), x, w)[0]

  def unrolled(x, w):
    for i in range(5):
      x = block(x, w[i])
    return x

  looped = cost.count(net, _X, stacked, weights=1)
  flat = cost.count(unrolled, _X, stacked, weights=1)
  assert looped.macs == flat.macs == {(2, 1): 5 * sum(plain.macs.values())}
  assert looped.elementwise == flat.elementwise
  assert looped.elementwise_by_primitive == flat.elementwise_by_primitive
  assert looped.weights_by_bits == flat.weights_by_bits == {1: 5 * 576}
  (record,) = looped.layers
  assert (record.repeats, record.weights) == (5, 5 * 576)


def test_a_while_of_one_trip_is_its_body(plain):
  report = cost.count(_while, _X, _W, weights=1, trips=1)
  assert report.macs == plain.macs
  assert report.elementwise == plain.elementwise
  assert report.weights_by_bits == plain.weights_by_bits


# --- derivatives --------------------------------------------------------------


def _low(x, n):
  """Codes with the gradient of what they stand for."""
  codes = bits.tag(jnp.clip(jnp.round(x), -2, 1), n)
  return bits.tag(x + lax.stop_gradient(codes - x), n)


def layer(x, w):
  """A product whose both gradients are wanted."""
  return jnp.tanh(
    lax.conv_general_dilated(
      _low(x, 2), _low(w, 1), (1, 1), "SAME", dimension_numbers=_DIMS
    )
  )


def _stack(x, w):
  return lax.scan(lambda x, w: (layer(x, w), None), x, w[None])[0]


DERIVED = {
  "itself": layer,
  "jit": jax.jit(layer),
  "scan": _stack,
  "vmap": lambda x, w: jax.vmap(lambda x: layer(x[None], w)[0])(x),
  "remat": jax.checkpoint(layer),
  "remat in a scan": lambda x, w: lax.scan(
    jax.checkpoint(lambda x, w: (layer(x, w), None)), x, w[None]
  )[0],
}


@pytest.mark.parametrize("form", DERIVED)
def test_each_phase_of_a_gradient_has_its_products(form):
  def loss(x, w):
    return (DERIVED[form](x, w) ** 2).sum()

  program = jax.value_and_grad(loss, (0, 1))
  report = cost.count(program, _X, _W, weights=1)
  macs = 4 * 6 * 6 * 9 * 8 * 8
  found = {}
  for record in report.layers:
    found[record.phase] = found.get(record.phase, 0) + record.macs
  assert found.pop("forward") == macs
  # What remat runs once more is kept apart.
  assert found.pop("recompute", 0) == (macs if "remat" in form else 0)
  # By the input and by the kernel.
  assert found == {"backward": 2 * macs}
  forward = next(r for r in report.layers if r.phase == "forward")
  assert (forward.lhs_bits, forward.rhs_bits) == (2, 1)
  assert set(report.by_phase) == {r.phase for r in report.layers}
