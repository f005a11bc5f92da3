"""AdaBin and LAB: values and filters that are learned."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jbin import nn, quantizers
from tests.golden import torch_layers as layers
from tests.golden.compare import Reader, Vectors, close_gradient, vjp_of

FORWARD, BACKWARD = 5e-6, 2e-4  # the vectors' README

# --- AdaBin -----------------------------------------------------------------


def adabin(z: Vectors):
  found = layers.groups(z, r"(maxout)?(?:c(\d+)_)?(?:k([\d.]+)_t([\d.]+))?_+")
  cases = [key for key in found if key[2]]
  assert cases
  for _, index, k, t in cases:
    arrays = {
      **found[None, index, None, None],
      **found[None, index, k, t],
    }
    read = Reader(arrays)
    for height in (float(k), None):
      _adabin_layer(read, float(t), height)
    read.all_read()
  read = Reader(found["maxout", None, None, None])
  _maxout(read)
  read.all_read()


def _adabin_layer(z, t, k):
  a, b = z["alpha_a"], z["beta_a"]
  inputs = quantizers.adabin_activation(zero=0.0)
  kernels = quantizers.adabin_weight(t, k, zero=0.0)
  x, w = layers.tensor(z["x"]), layers.kernel(z["weight"])
  y, *_ = layers.alone(inputs, x, x, a=a, b=b)
  layers.near(y, layers.tensor(z["qa"]), FORWARD)
  paper = quantizers.adabin_activation("paper", zero=0.0)
  y, *_ = layers.alone(paper, x, x, a=a, b=b)
  layers.near(y, layers.tensor(z["qa"]) + b - a * b, FORWARD)
  y, *_ = layers.alone(kernels, w, w)
  layers.near(y, layers.kernel(z["qw"]), FORWARD)
  learned = ({"a": a, "b": b}, {})
  layer = layers.layer(z, inputs, kernels, learned=learned)
  y, _, dparams, dx = layers.gradients(layer, z)
  layers.near(y, layers.tensor(z["y"]), FORWARD)
  close_gradient(dx, layers.tensor(z["grad_x"]), BACKWARD)
  want = layers.kernel(z["grad_weight"])
  close_gradient(dparams["kernel"][...], want, BACKWARD)
  for name, theirs in (("a", "alpha_a"), ("b", "beta_a")):
    got = layers.learned_gradient(dparams, "input", name)
    close_gradient(got, z[f"grad_{theirs}"], BACKWARD)


def _maxout(z):
  x, g = layers.tensor(z["x"]), layers.tensor(z["gy"])
  layer = nn.Maxout(x.shape[-1])
  names = {"pos_slope": "pos", "neg_slope": "neg"}
  for ours, theirs in names.items():
    getattr(layer, ours)[...] = jnp.asarray(z[theirs])
  y, _, dparams, dx = vjp_of(layer, x, g)
  layers.near(y, layers.tensor(z["out"]), FORWARD)
  close_gradient(dx, layers.tensor(z["grad_x"]), BACKWARD)
  for ours, theirs in names.items():
    close_gradient(dparams[ours][...], z[f"grad_{theirs}"], BACKWARD)


# --- LAB --------------------------------------------------------------------


def lab(z: Vectors):
  for (_, kind), arrays in layers.groups(
    z, r"s(\d+)_beta(learn|[\d.]+)__"
  ).items():
    read = Reader(arrays)
    _lab_layer(read, None if kind == "learn" else float(kind))
    read.all_read()


def _lab_layer(z, beta):
  names = ["kernel", "bias"] + ["beta"] * (beta is None)
  values = {name: z[name] for name in names}
  if beta is not None:
    assert z["beta"] == beta
  layer = nn.Quantizer(
    quantizers.lab_activation(beta=beta), z["x"].shape[-1], rngs=nnx.Rngs(0)
  )
  assert set(layer.learned) == set(values)
  y, dx, dlearned = layers.alone(layer.spec, z["x"], z["gy"], **values)
  np.testing.assert_array_equal(y, z["out"])
  close_gradient(dx, z["grad_x"], BACKWARD)
  for name in values:
    close_gradient(dlearned[name], z[f"grad_{name}"], BACKWARD)
