"""XLA's flops beside ours: equal but for what is said."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax import lax
from jax.sharding import PartitionSpec as P

from jbin import cost, errors

X = jax.ShapeDtypeStruct((16, 32), jnp.float32)
W = jax.ShapeDtypeStruct((32, 32), jnp.float32)
MACS = 16 * 32 * 32


def _amounts(check):
  """{reason: amount}."""
  pairs = [reason.split(": ") for reason in check.reasons]
  return {why: int(n.replace(",", "")) for why, *_, n in pairs}


def test_a_product_alone_is_counted_alike():
  check = cost.flops_check(lambda x, w: x @ w, X, W, weights=1)
  assert (check.macs, check.flops) == (MACS, 2 * MACS)
  assert check.reasons == []
  assert str(check) == "2 x MACs 32,768, XLA's flops 32,768"


def test_the_body_of_a_loop():
  def run(x, w):
    return lax.scan(lambda c, _: (c @ w, None), x, None, length=10)[0]

  check = cost.flops_check(run, X, W, weights=1)
  assert check.macs == 10 * MACS
  assert _amounts(check) == {"loops": 9 * MACS}
  # The loop's own counter is added and compared.
  assert 0 <= check.flops - 2 * MACS < 10


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
def test_padding(stride, dilation):
  conv = lambda x, w: lax.conv_general_dilated(
    x,
    w,
    (stride, stride),
    [(2, 2), (2, 2)],
    rhs_dilation=(dilation, dilation),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )
  x = jax.ShapeDtypeStruct((1, 8, 8, 4), jnp.float32)
  w = jax.ShapeDtypeStruct((3, 3, 4, 5), jnp.float32)
  check = cost.flops_check(conv, x, w, weights=1)
  padded = _amounts(check)["padding"]
  assert check.flops == 2 * (check.macs - padded)


def test_element_wise_work_and_what_is_not_counted():
  check = cost.flops_check(lambda x, w: jnp.sort(x @ w + x), X, W, weights=1)
  found = _amounts(check)
  assert found["element-wise"] == 16 * 32
  assert found["not counted"] == 1
  assert check.flops >= 2 * MACS + 16 * 32


def test_devices():
  mesh = jax.make_mesh((8,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
  run = jax.shard_map(
    lambda x, w: x @ w, mesh=mesh, in_specs=(P("d"), P()), out_specs=P("d")
  )
  check = cost.flops_check(run, X, W, weights=1)
  assert check.macs == MACS
  assert _amounts(check) == {"devices": 8}
  assert check.flops == 2 * MACS / 8


def test_a_module_without_arrays():
  model = nnx.eval_shape(lambda: nnx.Linear(1 << 12, 1 << 12, rngs=nnx.Rngs(0)))
  x = jax.ShapeDtypeStruct((1, 1 << 12), jnp.float32)
  check = cost.flops_check(model, x)
  assert check.macs == 1 << 24
  assert check.flops == pytest.approx(2 << 24, rel=1e-3)
  with pytest.raises(errors.UserError):
    cost.flops_check(3)
