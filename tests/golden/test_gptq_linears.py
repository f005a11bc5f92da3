"""BitNet's and OneBit's linear layers, made by rules, against a file's vectors.

The file has packing, AWQ, SmoothQuant and rotations too, which no rule makes.
"""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jbin
from jbin import convert, quantizers
from tests.golden import folder
from tests.golden.compare import (
  Reader,
  Vectors,
  close,
  close_gradient,
  vjp_of,
)
from tests.golden.linears_layers import heads
from tests.golden.torch_layers import kernel

GRADIENT = 1e-5
# What is packed for inference, and what is done to a trained model: not of
# these layers.
OTHERS = ("tern", "onebit_pack", "awq", "sq", "rht")


def converted(w, name: str, bias=None, **options):
  """A model of one layer with the weights of a file, and that layer."""
  w = kernel(w)
  layer = nnx.Linear(*w.shape, use_bias=bias is not None, rngs=nnx.Rngs(0))
  layer.kernel[...] = jnp.asarray(w)
  if bias is not None:
    layer.bias[...] = jnp.asarray(bias)
  rules = convert.REGISTRY.get(name)(**options)
  low = jbin.quantize(nnx.Sequential(layer), rules)
  return low, low.layers[0]


def bitnet(z: Reader):
  """The layer of b1.58, and the weights of the one with 1 bit."""
  w, x = z["W"], z["x"]
  low, layer = converted(w, "bitnet158")
  y, _, dparams, dx = vjp_of(low, x, z["gy"])
  close(y, z["b158_y"])
  close_gradient(dx, z["b158_dx_ste"], GRADIENT)
  dw = dparams["layers"][0]["kernel"][...]
  close_gradient(dw, kernel(z["b158_dW_ste"]), GRADIENT)
  made = layer.kernel_quantizer(layer.kernel[...])
  close(made, kernel(z["b158_Wq"]), 1e-6)
  close(np.squeeze(made.scale), z["b158_scale_absmean"], 1e-7)
  inputs = layer.input_quantizer(jnp.asarray(x))
  np.testing.assert_array_equal(inputs.codes, z["act8_int"])
  # Theirs is what an input is multiplied by.
  np.testing.assert_allclose(1 / inputs.scale, z["act8_scale"], rtol=1e-6)
  close(inputs, z["act8_deq"], 1e-6)
  _, layer = converted(w, "bitnet")
  close(layer.kernel_quantizer(layer.kernel[...]), kernel(z["bitnet1_Wq"]))
  close(w.mean(), z["bitnet1_mean"], 1e-7)


def onebit(z: Reader):
  """Layers with and without a bias, and what the factors start from."""
  spec = quantizers.onebit_weight(zero=0.0)
  w = jnp.asarray(kernel(z["W"]))
  start = spec.parameters(w.shape[-1], w)
  names = tuple(start)
  left, right = (start[name] for name in ("input_factor", "weight_scale"))
  close(np.outer(left, right), kernel(z["onebit_rank1_absW"]), 1e-6)
  close(spec(w, **start), kernel(z["onebit_svid_What"]), 1e-6)
  for head in heads(z, "_input_factor"):
    bias = z.get(f"{head}_b")
    low, layer = converted(z["W"], "onebit", bias, zero=0.0)
    for name in names:
      layer.kernel_quantizer.learned[name][...] = z[f"{head}_{name}"]
    y, _, dparams, dx = vjp_of(low, z[f"{head}_x"], z["gy"])
    close(y, z[f"{head}_y"])
    close_gradient(dx, z[f"{head}_dx"], GRADIENT)
    dlayer = dparams["layers"][0]
    close_gradient(dlayer["kernel"][...], kernel(z[f"{head}_dW"]), GRADIENT)
    if bias is not None:
      close_gradient(dlayer["bias"][...], z[f"{head}_db"], GRADIENT)
    learned = dlayer["kernel_quantizer"]["learned"]
    for name in names:
      close_gradient(learned[name][...], z[f"{head}_d{name}"], GRADIENT)


def misc(vectors: Vectors):
  z = Reader(
    {key: a for key, a in vectors.items() if not key.startswith(OTHERS)}
  )
  bitnet(z)
  onebit(z)
  z.all_read()


CHECKS = {"quantizers_misc": misc}


@pytest.mark.parametrize(
  "file",
  folder.files("gptq_family", "quantizers_misc*.npz"),
  ids=lambda file: file.name,
)
def test_file(file):
  with np.load(file) as archive:
    folder.check_for(file, CHECKS)(dict(archive))
