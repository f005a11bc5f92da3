"""Published figures come out of the conventions that name their papers."""

import functools

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax import lax

from jbin import convert, cost, models, nn, quantize
from tests.cost import networks

W1A1, W1A32 = (1, 1), (32, 1)


def test_reactnet_a_is_0_87e8():
  report = networks.reactnet_a().count()
  assert report.macs == {(32, 32): 11_862_016, (1, 1): 4_816_896_000}
  total = report.total("ops_div64")
  assert total == 87_126_016
  assert total == report.total("cpu64_binary_64th_rest_1")
  assert total == report.total("cpu64_maxbits_64") == report.total("biv_ops")
  assert f"{total / 1e8:.2f}" == "0.87"
  assert report.total("bops") == 4_816_896_000
  left = report.left_out("bops")
  assert left["MACs priced 0, 32 x 32 bits"] == 11_862_016


def test_bi_real_18_is_1_63e8():
  """Without the classifier; with it 1.640, which 1.63 is if cut off."""
  body = networks.bireal_18(classifier=False).count()
  assert body.macs[1, 1] == 1_676_279_808
  assert f"{body.total('ops_div64') / 1e8:.2f}" == "1.63"
  whole = networks.bireal_18().count()
  assert whole.total("ops_div64") == body.total("ops_div64") + 512_000
  assert int(whole.total("ops_div64") / 1e6) == 163


# model -> G of OPs in float, with a binary attention and 1-bit MLP weights,
# and all binary; of the float model's parts: rest, attention, MLP.
BIVIT = {
  "DeiT-T": (
    (networks.deit, 192),
    ("1.254", "0.386", "0.048"),
    ("0.0291", "0.5274", "0.6972"),
  ),
  "DeiT-B": (
    (networks.deit, 768),
    ("17.564", "5.792", "0.389"),
    ("0.1164", "6.2927", "11.1548"),
  ),
  "Swin-T": (
    (networks.swin, (2, 2, 6, 2)),
    ("4.491", "1.600", "0.256"),
    ("0.1886", "1.5274", "2.7745"),
  ),
  "Swin-S": (
    (networks.swin, (2, 2, 18, 2)),
    ("8.741", "3.010", "0.322"),
    ("0.1886", "3.0032", "5.5491"),
  ),
}


@pytest.mark.parametrize("name", BIVIT)
def test_bivit(name):
  (make, size), totals, parts = BIVIT[name]
  mixed = make(size, W1A1, W1A32).count()
  reports = make(size).count(), mixed, make(size, W1A1, W1A1).count()
  found = [f"{r.total('biv_ops') / 1e9:.3f}" for r in reports]
  assert tuple(found) == totals
  pairs = (32, 32), W1A1, W1A32
  assert tuple(f"{mixed.macs[p] / 1e9:.4f}" for p in pairs) == parts
  half = mixed.total("ops_div64") - mixed.total("biv_ops")
  assert half == mixed.macs[W1A32] / 2


def test_bibert():
  """FLOPs, two a MAC, and MiB: matrices, with biases, with norms."""
  make = lambda: models.bert_base(0, dropout=0.0, rngs=nnx.Rngs(0))
  model = nnx.eval_shape(make)
  tokens = jax.ShapeDtypeStruct((1, 128), jnp.int32)
  report = cost.count(model, tokens, tokens)
  assert report.macs == {(32, 32): 11_174_215_680}
  assert f"{2 * report.total('ops_div64') / 1e9:.2f}" == "22.35"
  rules = convert.REGISTRY.get("bibert")(tables="all")
  low = cost.count(quantize(model, rules), tokens, tokens)
  assert low.macs == {(1, 1): 11_174_215_680}
  assert f"{2 * low.total('ops_div64') / 1e9:.3f}" == "0.349"
  memory = low.memory()
  matrices = memory.weights_bytes + memory.embeddings_bytes
  biases = 4 * (12 * (4 * 768 + 3072 + 768) + 768)
  found = matrices, matrices + biases, memory.parameters_bytes
  assert [f"{x / 2**20:.2f}" for x in found] == ["13.04", "13.36", "13.50"]


def test_binarydm_is_a_sixteenth_at_w1a4():
  """4 x 1 bit costs 4/64 of a float multiply-accumulate, 16.0 times less."""
  float_ops = networks.bireal_18((32, 32)).count().total("ops_div64")
  report = networks.bireal_18((4, 1)).count()
  binary = report.macs[4, 1]
  rest = report.macs[32, 32]
  assert float_ops - rest == 16 * (report.total("ops_div64") - rest) == binary


# --- EcoFormer: the products of one layer ------------------------------------

N, HEADS, DIM, BITS, ANCHORS = 3136, 2, 32, 16, 25
WHOLE = HEADS * DIM


def attention(q, k, v):
  return (q @ k.mT) @ v


def test_ecoformers_products_split_into_multiplications_and_additions():
  x = jnp.ones((1, HEADS, N, DIM))
  report = cost.count(attention, x, x, x)
  each = 2 * N * N * WHOLE
  assert report.operations().multiplications == {"float32": each}
  assert report.operations().additions == {"float32": each}
  assert report.total("energy_45nm") == pytest.approx(each * (3.7 + 0.9))

  make = functools.partial(nn.HashAttention, WHOLE, HEADS)
  layer = nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0)))
  report = cost.count(layer, jax.ShapeDtypeStruct((1, N, WHOLE), jnp.float32))
  kernels = HEADS * N * ANCHORS * BITS
  # The context, its product with the codes, and that with their sum.
  coded = 2 * N * BITS * WHOLE + HEADS * N * BITS
  both = 3 * N * WHOLE**2 + kernels
  assert report.total("multiplications") == both
  assert report.total("additions") == both + coded
  expected = 3.7 * both + 0.9 * (both + coded)
  assert report.total("energy_45nm") == pytest.approx(expected)


# --- Larq: the summary of its own tests ---------------------------------------


def _larq_2d():
  """A convolution, a ternary depthwise and a binary separable one, a dense."""
  net = networks.Net()
  net.conv(64, 3, 1, 32, 1, (32, 1))
  net.conv(32, 3, 32, 32, 3, (2, 2), groups=32)
  net.conv(11, 3, 32, 32, 1, (1, 1), groups=32)
  net.dense(121, 32, 32, (1, 1))
  net.dense(1, 3872, 10)
  return net.count()


def _larq_1d():
  net = networks.Net()
  net.dense(64, 3 * 6, 32, (32, 1))
  net.dense(32, 3, 32, (1, 1))
  net.dense(32, 32, 16, (1, 1))
  net.dense(1, 512, 10)
  return net.count()


@pytest.mark.parametrize(
  ("make", "table"),
  [
    (_larq_2d, {32: 1_218_368, 2: 34_848, 1: 158_752}),
    (_larq_1d, {32: 41_984, 1: 19_456}),
  ],
)
def test_larqs_table_of_macs(make, table):
  report = make()
  assert report.total_by("larq_macs", cost.larq_precision) == table
  assert report.total("larq_macs") == sum(table.values())


def test_larq_counts_the_zeros_of_a_transposed_convolution():
  def run(x, w):
    return lax.conv_transpose(x, w, (2, 2), "SAME")

  args = jnp.ones((1, 8, 8, 4)), jnp.ones((4, 4, 4, 6))
  report = cost.count(run, *args, weights=1)
  kernel, pixels = 4 * 4 * 4 * 6, 16 * 16
  assert report.total("larq_macs") == kernel * pixels
  assert sum(report.macs.values()) == kernel * pixels / 4


def test_larq_knows_no_product_of_activations():
  report = cost.count(attention, *[jnp.ones((2, 4, 8))] * 3)
  assert report.total("larq_macs") == 0
  assert report.left_out("larq_macs")["MACs priced 0, 32 x 32 bits"] == 512
