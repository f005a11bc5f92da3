"""Bits in place of floats between devices: the same numbers, less traffic."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from jbin import cost, errors, nn, quantizers as q, shards
from jbin.train import sharding

MESHES = {"fsdp 8": (1, 8, 1), "2x4": (2, 4, 1), "4x2 tensor": (1, 4, 2)}
PAIRS = {
  "sign": (q.sign(), q.sign()),
  "xnor": (q.sign(), q.xnor()),
  "fbi": (None, q.fbi_weight()),
  "onebit": (None, q.onebit_weight()),
  "adabin": (None, q.adabin_weight()),
}
CASES = [(name, kind) for name in PAIRS for kind in ("linear", "heads")]
CASES += [(name, "conv") for name in ("sign", "xnor", "adabin")]
DEPTH, FEATURES, HIDDEN = 3, 64, 128


class Block(nnx.Module):
  """Two layers; their axes have names."""

  def __init__(self, pair, dtype, rngs):
    make = functools.partial(
      nn.Linear,
      input_quantizer=pair[0],
      kernel_quantizer=pair[1],
      dtype=dtype,
      rngs=rngs,
    )
    self.up = nn.name_axes(make(FEATURES, HIDDEN), kernel=("embed", "mlp"))
    self.down = nn.name_axes(make(HIDDEN, FEATURES), kernel=("mlp", "embed"))

  def __call__(self, x):
    return x + self.down(jnp.tanh(self.up(x)))


class Stack(nnx.Module):
  """A scan over blocks."""

  def __init__(self, pair, dtype=jnp.float32, remat="none"):
    make = functools.partial(Block, pair, dtype)
    self.blocks = nn.stack(make, DEPTH, nnx.Rngs(0))
    self.remat = remat

  def __call__(self, x):
    return nn.scan(self.blocks, x, remat=self.remat)[0]


def _made(name, pair):
  """A layer without names of axes, and the shape of its input."""
  slots = {"input_quantizer": pair[0], "kernel_quantizer": pair[1]}
  rngs = nnx.Rngs(0)
  if name == "conv":
    return nn.Conv(32, 64, (3, 3), rngs=rngs, **slots), (16, 6, 6, 32)
  if name == "heads":
    return nn.LinearGeneral(64, (4, 16), rngs=rngs, **slots), (512, 64)
  return nn.Linear(64, 128, rngs=rngs, **slots), (512, 64)


def _run(model, shape, sizes, gather, laid=True):
  """Gradients and outputs, and what the compiled program sends.

  Results lie as their parameters and the batch do if `laid`, else as XLA likes.
  """
  mesh = sharding.make_mesh(*sizes)
  graph, params, rest = nnx.split(model, nnx.Param, ...)
  x = np.random.default_rng(0).normal(size=shape).astype(np.float32)

  def gradient(params, x):
    def loss(params):
      y = nnx.merge(graph, params, rest, copy=True)(x)
      return jnp.square(y.astype(jnp.float32)).mean(), y

    return jax.grad(loss, has_aux=True)(params)

  places = sharding.intended(params, mesh)
  params = jax.device_put(params, places)
  x = jax.device_put(x, sharding.batch(mesh))
  step = jax.jit(
    shards.within(mesh, gradient, gather),
    out_shardings=(places, sharding.batch(mesh)) if laid else None,
  )
  compiled = step.lower(params, x).compile()
  sent = cost.communication(compiled, mesh)
  return jax.tree.map(np.asarray, compiled(params, x)), sent


def _gathers(sent):
  """Bytes of each all-gather along `fsdp` of as much as a kernel's bits."""
  return [
    row.bytes
    for row in sent.transfers
    if row.kind == "all-gather" and row.axes == ("fsdp",) and row.bytes >= 1024
  ]


def _equal(got, want):
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("sizes", MESHES.values(), ids=MESHES)
@pytest.mark.parametrize("name", ["sign", "fbi"])
def test_a_stack_is_the_same_to_the_last_bit(name, sizes):
  want, _ = _run(Stack(PAIRS[name]), (1024, FEATURES), sizes, "floats")
  got, _ = _run(Stack(PAIRS[name]), (1024, FEATURES), sizes, "packed")
  _equal(got, want)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", MESHES.values(), ids=MESHES)
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_every_layer_is_the_same_to_the_last_bit(name, kind, sizes):
  model, shape = _made(kind, PAIRS[name])
  want, floats = _run(model, shape, sizes, "floats")
  got, packed = _run(model, shape, sizes, "packed")
  _equal(got, want)
  assert sum(_gathers(packed)) < sum(_gathers(floats))


@pytest.mark.parametrize(
  ("dtype", "tolerance"), [(jnp.float32, 1e-6), (jnp.bfloat16, 2**-6)]
)
def test_sums_in_another_order_are_rounded_otherwise(dtype, tolerance):
  """Where results may lie anywhere, XLA sums floats on other devices."""
  slots = {"kernel_quantizer": q.sign(), "dtype": dtype}
  layer = nn.Linear(64, 128, rngs=nnx.Rngs(0), **slots)
  shape, sizes = (64, 64), (1, 8, 1)
  want, floats = _run(layer, shape, sizes, "floats", laid=False)
  got, packed = _run(layer, shape, sizes, "packed", laid=False)
  assert _gathers(packed) != _gathers(floats)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    assert a.dtype == b.dtype
    a, b = a.astype(np.float32), b.astype(np.float32)
    assert np.abs(a - b).max() <= tolerance * np.abs(b).max()


def test_kernels_take_one_bit_each_of_the_mesh():
  """Every kernel crosses in the forward and in the backward, and no more.

  A 32nd of float32. (XLA on CPU sends bfloat16 as float32, too.)
  """
  made = functools.partial(Stack, PAIRS["fbi"])
  sizes = (1, 8, 1)
  _, floats = _run(made(), (4096, FEATURES), sizes, "floats")
  _, packed = _run(made(), (4096, FEATURES), sizes, "packed")
  elements = FEATURES * HIDDEN
  assert _gathers(packed) == [elements // 8] * 4
  assert _gathers(floats) == [elements * 4] * 4


@pytest.mark.slow
def test_with_remat():
  made = functools.partial(Stack, PAIRS["fbi"], remat="full")
  want, _ = _run(made(), (1024, FEATURES), (1, 8, 1), "floats")
  got, _ = _run(made(), (1024, FEATURES), (1, 8, 1), "packed")
  _equal(got, want)


def test_what_is_gathered_by_bits():
  """Of kernels that `fsdp` splits, along an axis that makes whole bytes."""
  mesh = sharding.make_mesh(1, 4, 2)

  def of(shape, names=None, gather="packed"):
    def ask():
      split = shards.places(shape, names)
      return split and shards.packing(shape, split)

    return shards.within(mesh, ask, gather)()

  assert of((64, 64), gather="floats") is None
  assert of((8, 8)) is None  # small
  assert of((33, 47)) is None  # not split
  assert shards.places((64, 64), None) is None  # outside
  linear = of((64, 128))
  assert (linear.axis, linear.split, linear.whole) == (
    0,
    P(None, "fsdp"),
    P(None, None),
  )
  assert of((3, 3, 32, 64)).axis == 2  # 3 entries would fill a byte by 3/8
  both = of((64, 128), ("embed", "mlp"))
  assert (both.axis, both.whole) == (1, P(None, "tensor"))
  assert of((36, 36), ("embed", "mlp")) is None  # 9 rows a device, no bytes
  assert of((36, 64), ("embed", "mlp")).axis == 1


def test_an_unknown_way_is_refused():
  with pytest.raises(errors.UserError, match="gather"):
    shards.within(sharding.make_mesh(1, 8), lambda: None, "bits")  # pyright: ignore[reportArgumentType]
