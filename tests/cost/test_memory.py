"""What a model holds: weights, embeddings, statistics and states by width."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from jbin import bits, cost
from tests.cost import networks


class Cached(nnx.Module):
  """An embedding, a 1-bit and a float layer, a norm and a cache."""

  def __init__(self, rngs):
    self.embed = nnx.Embed(100, 8, rngs=rngs)
    self.inner = nnx.Linear(8, 8, use_bias=False, rngs=rngs)
    self.bias = nnx.Param(jnp.zeros(8))
    self.norm = nnx.BatchNorm(8, rngs=rngs)
    self.outer = nnx.Linear(
      8, 4, use_bias=False, param_dtype=jnp.bfloat16, rngs=rngs
    )
    self.keys = nnx.Cache(jnp.zeros((2, 16, 8), jnp.bfloat16))
    self.idle = nnx.Param(jnp.zeros((3, 3), jnp.int8))

  def __call__(self, ids):
    x = self.embed(ids)
    kernel = bits.tag(jnp.sign(self.inner.kernel[...]), 1)
    x = x @ kernel + self.bias[...][None, None]
    return self.outer(self.norm(x) + self.keys[...].sum()).sum()


@pytest.fixture(scope="module")
def report():
  model = nnx.eval_shape(lambda: Cached(nnx.Rngs(0)))
  return cost.count(model, jax.ShapeDtypeStruct((2, 3), jnp.int32))


def test_each_part_at_its_width(report):
  found = report.memory()
  # The product of the bfloat16 kernel is done in float32.
  assert report.macs[32, 32] == 6 * 32
  assert found.weights_by_bits == report.weights_by_bits == {1: 64, 16: 32}
  assert found.weights_bytes == report.weight_bytes == 8 + 2 * 32
  assert found.embeddings_by_bits == {32: 800}
  assert found.embeddings_bytes == 3200
  assert found.other_parameters_by_bits == {32: 8 + 16, 8: 9}
  assert found.other_parameters_bytes == 4 * 24 + 9
  assert found.batch_stats_bytes == 4 * 16
  assert found.states == {"keys": ("Cache", 2 * 16 * 8 * 2)}
  assert found.state_bytes == 512
  assert found.parameters_bytes == 72 + 3200 + 105
  assert found.total_bytes == 72 + 3200 + 105 + 64 + 512


def test_activations_at_their_peak():
  def net(x, w, v):
    y = jnp.maximum(x @ w, 0)  # 8 floats beside 8 floats
    codes = bits.tag(jnp.where(v >= 0, 1.0, -1.0), 1)  # no activation
    return bits.tag(jnp.sign(y), 1) @ codes

  x, w, v = (
    jax.ShapeDtypeStruct(shape, jnp.float32)
    for shape in ((1, 4), (4, 8), (8, 2))
  )
  memory = cost.count(net, x, w, v, weights=(1, 2)).memory()
  assert memory.activations_bytes == 64
  assert memory.activations_tagged_bytes == 64
  assert memory.peak_bytes == memory.total_bytes + 64

  def late(x, w):  # the sign is kept while the next product is made
    s = bits.tag(jnp.sign(x @ w), 1)
    return s @ w.T, s

  memory = cost.count(late, x, w, weights=1).memory()
  assert memory.activations_bytes == 64
  assert memory.activations_tagged_bytes == 32 + 1


@pytest.mark.parametrize(
  "write",
  [
    lambda cache, row: jax.lax.dynamic_update_slice(cache, row, (3, 0)),
    lambda cache, row: cache.at[3].set(row[0]),
  ],
)
def test_a_cache_that_is_written_in_part_is_held_once(write):
  def decode(cache, x, w):
    row = x @ w
    cache = write(cache, row)
    return row @ cache.T

  shapes = (64, 8), (1, 8), (8, 8)
  args = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
  memory = cost.count(decode, *args, states=0, weights=2).memory()
  assert memory.state_bytes == 4 * 64 * 8
  # The row and the scores.
  assert memory.activations_bytes == 4 * (8 + 64)


def test_rows_add_up(report):
  *parts, rest, busy = report.memory().rows()
  assert rest == ("at rest", report.memory().total_bytes)
  assert sum(n for _, n in parts) == rest[1]
  assert rest[1] + busy[1] == report.memory().peak_bytes
  assert [name for name, _ in parts] == [
    "weights",
    "embeddings",
    "other parameters",
    "batch statistics",
    "states",
  ]


def test_json(report):
  table = report.to_json()["memory"]
  assert table["weights_by_bits"] == {"1": 64, "16": 32}
  assert table["states"] == {"keys": ["Cache", 512]}
  assert table["total_bytes"] == report.memory().total_bytes
  assert table["peak_bytes"] == report.memory().peak_bytes


def _tied(look, multiply):
  """An embedding that is also the head, each use at its own bits."""

  def run(table, ids):
    rows = networks.codes(table, look)[ids]
    return rows @ networks.codes(table, multiply).T

  table, ids = jnp.ones((10, 8)), jnp.zeros(4, jnp.int32)
  return cost.count(run, table, ids, weights=0).memory()


@pytest.mark.parametrize(
  ("look", "multiply", "width"), [(1, 1, 1), (32, 1, 32), (1, 8, 8)]
)
def test_a_tied_table_is_held_once_at_its_widest_use(look, multiply, width):
  found = _tied(look, multiply)
  assert found.weights_by_bits == {width: 80}
  assert not found.embeddings_by_bits
  assert found.total_bytes == 10 * width


@pytest.mark.parametrize(("tag", "expected"), [(1, 10), (4, 40), (32, 320)])
def test_an_embedding_counts_at_its_tag(tag, expected):
  found = cost.count(
    lambda table, ids: networks.codes(table, tag)[ids],
    jnp.ones((10, 8)),
    jnp.zeros(4, jnp.int32),
    weights=0,
  ).memory()
  assert found.embeddings_by_bits == {tag: 80}
  assert found.total_bytes == expected


@pytest.mark.parametrize(
  ("stored", "tag", "bits_"),
  [
    (jnp.int8, 0, 8),
    (jnp.bfloat16, 0, 16),
    (jnp.float32, 0, 32),
    (jnp.int8, 1, 1),
    (jnp.float32, 4, 4),
  ],
)
def test_what_is_widened_for_its_use_is_held_as_it_is_stored(
  stored, tag, bits_
):
  array = jax.ShapeDtypeStruct

  def widened(table):
    wide = table.astype(jnp.float32)
    return bits.tag(wide, tag) if tag else wide * 0.5

  x, w = array((4, 8), jnp.float32), array((8, 5), stored)
  report = cost.count(lambda x, w: x @ widened(w), x, w, weights=1)
  held = report.memory().weights_by_bits
  assert held == report.weights_by_bits == {bits_: 40}
  assert [r["weight_bytes"] for r in report.to_json()["layers"]] == [5 * bits_]
  ids = array((3,), jnp.int32)
  report = cost.count(lambda i, w: widened(w)[i], ids, w, weights=1)
  assert report.memory().embeddings_by_bits == {bits_: 40}


def test_bytes_are_not_rounded():
  found = cost.count(
    lambda x, w: x @ networks.codes(w, 1),
    jnp.ones((1, 3)),
    jnp.ones((3, 1)),
    weights=1,
  ).memory()
  assert found.weights_bytes == found.total_bytes == 3 / 8


def test_a_stack_of_layers_is_held_once():
  """Under a scan each layer has its own weights; a shared one is one."""
  x, stack = jnp.ones((2, 8)), jnp.ones((5, 8, 8))

  def step(x, w):
    return x @ networks.codes(w, 1), None

  apart = cost.count(lambda x, w: jax.lax.scan(step, x, w), x, stack, weights=1)
  assert apart.memory().weights_by_bits == {1: 320}
  shared = cost.count(
    lambda x, w: jax.lax.scan(lambda x, _: step(x, w), x, None, length=5),
    x,
    stack[0],
    weights=1,
  )
  assert shared.memory().weights_by_bits == {1: 64}


def test_deit_t_of_bivit():
  """The kernels of the 2.18 MB in the paper's table; the rest is float."""
  net = networks.deit(192, (1, 1), (32, 1))
  found = net.count().memory()
  assert found.weights_by_bits == {1: 5_308_416, 32: 339_456}
  rest = (197 + 1) * 192 + 192 + 1000 + 2 * 192  # positions, token, biases
  size = found.total_bytes + 4 * rest
  assert f"{size / 1e6:.2f}" == "2.18"


def test_a_training_step_holds_latent_weights():
  def loss(w, x):
    latent = w + jax.lax.stop_gradient(jnp.sign(w) - w)
    return (x @ bits.tag(latent, 1)).sum()

  w, x = (jax.ShapeDtypeStruct(s, jnp.float32) for s in ((4, 8), (2, 4)))
  forward = cost.count(loss, w, x, weights=0)
  step = cost.training(jax.value_and_grad(loss), w, x, weights=0)
  assert forward.memory().weights_by_bits == {1: 32}
  assert step.memory().weights_by_bits == {32: 32}
