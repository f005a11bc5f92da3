"""What the backward pass keeps: bits or floats, and the same gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings, strategies as st
from jax.extend import core

from jbin import errors, estimators, nn, quantizers as q, residuals
from tests import programs

SHAPES = st.lists(st.integers(1, 19), min_size=1, max_size=4)


@settings(max_examples=25, deadline=None)
@given(SHAPES, st.data())
def test_bits_along_any_axis_come_back(shape, data):
  axis = data.draw(st.integers(0, len(shape) - 1))
  mask = np.random.default_rng(0).integers(2, size=shape).astype(bool)
  packed = residuals.pack_along(jnp.asarray(mask), axis)
  want = np.packbits(mask, axis=axis, bitorder="little")
  np.testing.assert_array_equal(packed, want)
  back = residuals.unpack_along(packed, axis, shape[axis])
  np.testing.assert_array_equal(back, mask)


LINEARS = {
  "sign": (q.sign(), q.sign()),
  "xnor": (q.xnor((0,)), q.xnor(keep_scale=True)),
  "fbi": (None, q.fbi_weight()),
  "onebit": (None, q.onebit_weight()),
  "adabin": (q.adabin_activation(), q.adabin_weight()),
  "dorefa 4": (q.dorefa_activation(4), q.dorefa_weight(4)),
}


def _layer(name, dtype=jnp.float32):
  """A layer behind another, so that its input is nobody's argument."""
  inputs, kernel = LINEARS[name]
  make = functools.partial(nn.Linear, dtype=dtype, rngs=nnx.Rngs(0))
  return nnx.Sequential(
    make(32, 64),
    make(64, 48, input_quantizer=inputs, kernel_quantizer=kernel),
  )


def _parts(model, x):
  graph, params, rest = nnx.split(model, nnx.Param, ...)

  def loss(params, x):
    y = nnx.merge(graph, params, rest, copy=True)(x)
    return jnp.square(y.astype(jnp.float32)).sum()

  return loss, params, x


def _kept(loss, params, x):
  """Bytes that the forward hands to the backward, less its arguments."""

  def forward(params, x):
    return jax.tree.leaves(jax.vjp(loss, params, x)[1])

  program = jax.make_jaxpr(forward)(params, x).jaxpr
  inputs = set(program.invars)
  handed = {
    var
    for var in program.outvars
    if isinstance(var, core.Var) and var not in inputs
  }
  return {
    (var.aval.shape, var.aval.dtype.name): var.aval.size
    * var.aval.dtype.itemsize
    for var in handed
  }


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", LINEARS)
def test_gradients_are_the_same_to_the_last_bit(name, dtype):
  x = jnp.asarray(np.random.default_rng(1).normal(size=(24, 32)), jnp.float32)
  found = {}
  for keep in ("bits", "floats"):
    loss, params, x = _parts(_layer(name, dtype), x)
    with residuals.keeping(keep):
      found[keep] = programs.once(jax.value_and_grad(loss, (0, 1)))(params, x)
  for a, b in zip(
    *(jax.tree.leaves(found[keep]) for keep in ("bits", "floats")), strict=True
  ):
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize("name", ["sign", "fbi", "onebit"])
def test_no_float_copy_of_a_one_bit_operand_is_kept(name):
  """Nor of the input that a window looks at."""
  loss, params, x = _parts(_layer(name), jnp.ones((24, 32)))
  bits = _kept(loss, params, x)
  with residuals.keeping("floats"):
    floats = _kept(loss, params, x)
  kernel, hidden = ((64, 48), "float32"), ((24, 64), "float32")
  assert kernel in floats
  assert kernel not in bits
  if name == "sign":
    assert hidden in floats
    assert hidden not in bits
  assert sum(bits.values()) < sum(floats.values()) / 1.5


@pytest.mark.parametrize("edge", ["closed", "open", "half"])
def test_clipped_round_keeps_either(edge):
  x = jnp.linspace(-3, 3, 25)
  pull = jax.grad(lambda x: estimators.clipped_round(x, -2, 2, edge=edge).sum())
  bits = pull(x)
  with residuals.keeping("floats"):
    np.testing.assert_array_equal(pull(x), bits)
  assert set(np.unique(bits)) >= {0.0, 1.0}


def test_the_switch_is_part_of_what_is_compiled():
  """A function that is compiled is traced again under the other."""
  program = programs.Jit(jax.grad(lambda x: estimators.ste_sign(x).sum()))
  x = jnp.ones(9)
  program(x)
  with residuals.keeping("floats"):
    assert residuals.kept() == "floats"
    program(x)
  program(x)
  assert residuals.kept() == "bits"
  assert program.traces == 2


def test_an_unknown_kind_is_refused():
  with pytest.raises(errors.UserError, match="residuals"):
    residuals.keeping("float")  # pyright: ignore[reportArgumentType]
