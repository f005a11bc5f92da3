"""Methods: each makes a layer that runs forward and backward, and is cited."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jbin
from jbin import methods, nn, quantizers, schedules

# Name -> bits of inputs (None: float) and of kernels.
WIDTHS = {
  "bnn": (1, 1),
  "xnornet": (1, 1),
  "xnornet_k": (1, 1),
  "dorefa": (1, 1),
  "bireal": (1, 1),
  "bnnplus": (1, 1),
  "poke": (1, 1),
  "bop": (1, 1),
  "reste": (1, 1),
  "irnet": (1, 1),
  "fda": (1, 1),
  "recu": (1, 1),
  "biper": (1, 1),
  "rbnn": (1, 1),
  "siman": (1, 1),
  "dsq": (1, 1),
  "xnorpp": (1, 1),
  "bonn": (1, 1),
  "react": (1, 1),
  "adabin": (1, 1),
  "lab": (1, 1),
  "bit": (1, 1),
  "bivit": (1, 1),
  "bibert": (1, 1),
  "abcnet": (3, 3),
  "lqnet": (2, 1),
  "lsq": (4, 4),
  "pact": (4, 4),
  "binaryconnect": (None, 1),
  "proxquant": (None, 1),
  "twn": (None, 2),
  "ttq": (None, 2),
  "ste_tern": (2, 2),
  "fbi": (None, 1),
  "bitnet": (8, 1),
  "bitnet158": (8, 2),
  "integer": (8, 8),
}

# Name, arguments, and what they make of inputs and kernels.
Q = quantizers
ARGUMENTS = [
  ("dorefa", {"bits": 2}, Q.dorefa_activation(2), Q.dorefa_weight(2)),
  (
    "dorefa",
    {"activation_bits": 2},
    Q.dorefa_activation(2),
    Q.dorefa_weight(1),
  ),
  ("poke", {"bound": 2.0}, Q.poke_activation(2.0), Q.poke_weight(1)),
  ("reste", {"o": 2.0}, Q.reste_activation(2.0), Q.reste_weight(2.0)),
  ("irnet", {"t": 2.0}, Q.irnet_activation(2.0), Q.irnet_weight(2.0)),
  ("rbnn", {"epochs": 9}, Q.rbnn_activation(), Q.rbnn_weight(epochs=9)),
  (
    "fda",
    {"n": 9, "alpha": 0.0},
    Q.fda_activation(n=9, alpha=0.0),
    Q.fda_weight(n=9, alpha=0.0),
  ),
  ("recu", {"tau": 0.9}, Q.recu_activation(), Q.recu_weight(0.9)),
  (
    "biper",
    {"omega": 30.0, "binary_from": 0.5},
    Q.recu_activation(),
    Q.biper_weight(30.0, 0.5),
  ),
  ("adabin", {"t": 1.0}, Q.adabin_activation(), Q.adabin_weight(1.0)),
  ("bnnplus", {"beta": 2.0}, Q.swish_sign(2.0), Q.swish_sign(2.0)),
  (
    "bit",
    {"bits": 2, "signed": False},
    Q.bit_activation(2, signed=False, shift=True),
    Q.bit_weight(),
  ),
  ("lsq", {"bits": 2, "signed": False}, Q.lsq(2, signed=False), Q.lsq(2)),
  ("abcnet", {"bases": 1}, Q.abcnet_activation(1), Q.abcnet_weight(1)),
  ("lqnet", {"bits": 2}, Q.lqnet_activation(2), Q.lqnet_weight(2)),
  ("dsq", {"bits": 2}, Q.dsq(2), Q.dsq(2)),
  ("pact", {"bits": 2}, Q.pact(2), Q.dorefa_weight(2)),
  (
    "binaryconnect",
    {"mode": "stochastic"},
    None,
    Q.binaryconnect(mode="stochastic"),
  ),
  ("proxquant", {"bits": 2}, None, Q.noop(2)),
  ("integer", {"activation_bits": 0}, None, Q.absmax(8)),
  (
    "integer",
    {"bits": 4, "asymmetric": True},
    Q.minmax(4, axes=(0,)),
    Q.absmax(4),
  ),
]


def test_every_method_is_in_the_table():
  assert set(WIDTHS) == set(methods.REGISTRY)


@pytest.mark.parametrize("name", methods.REGISTRY)
def test_widths(name):
  pair = methods.REGISTRY.get(name)()
  assert list(pair) == ["input_quantizer", "kernel_quantizer"]
  found = tuple(q and q.bits for q in pair.values())
  assert found == WIDTHS[name]


@pytest.mark.parametrize("name", methods.REGISTRY)
def test_a_layer_trains(name):
  """Finite results and gradients, and the latent kernel gets one."""
  pair = methods.REGISTRY.get(name)()
  layer = nn.Conv(4, 6, (3, 3), 2, rngs=nnx.Rngs(0), **pair)
  graph, params, rest = nnx.split(layer, nnx.Param, ...)
  x = np.random.default_rng(0).normal(size=(2, 6, 6, 4)).astype(np.float32)
  rest = schedules.set_progress(rest, 0.5)

  @jax.jit
  def run(params, x):
    def loss(params, x):
      net = nnx.merge(graph, params, rest, copy=True)
      y = net(x)
      return jnp.square(y - 1).mean(), y

    return jax.value_and_grad(loss, (0, 1), has_aux=True)(params, x)

  (_, y), (gradients, dx) = run(params, x)
  assert y.shape == (2, 3, 3, 6)
  for leaf in jax.tree.leaves((y, gradients, dx)):
    assert np.isfinite(leaf).all()
  assert np.asarray(gradients["kernel"][...]).any()
  assert np.asarray(dx).any()


@pytest.mark.parametrize("name", methods.REGISTRY)
def test_it_is_cited(name):
  layer = nn.Linear(8, 8, rngs=nnx.Rngs(0), **methods.REGISTRY.get(name)())
  assert jbin.cite(layer).startswith("@")


@pytest.mark.parametrize(("name", "arguments", "left", "right"), ARGUMENTS)
def test_arguments(name, arguments, left, right):
  pair = methods.REGISTRY.get(name)(**arguments)
  assert pair == {"input_quantizer": left, "kernel_quantizer": right}
