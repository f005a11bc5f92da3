"""Binary linear layers of Bi-Mamba, as `nn` has them.

Files have kernels (out, in), one bias for each output, and sign(0) = 0.
"""

import jax.numpy as jnp
from flax import nnx

from jbin import nn, quantizers
from tests.golden.compare import (
  Reader,
  Vectors,
  close,
  close_gradient,
  vjp_of,
)
from tests.golden.torch_layers import kernel


def heads(z: Vectors, tail: str):
  """What stands before `tail` in the keys that end in it."""
  found = sorted(key[: -len(tail)] for key in z if key.endswith(tail))
  assert found, tail
  return found


def linear(w, bias, inputs, kernels):
  """`nn.Linear` with the weights of a file."""
  w = kernel(w)
  layer = nn.Linear(
    *w.shape,
    use_bias=bias is not None,
    input_quantizer=inputs,
    kernel_quantizer=kernels,
    rngs=nnx.Rngs(0),
  )
  layer.kernel[...] = jnp.asarray(w)
  if bias is not None:
    layer.bias[...] = jnp.asarray(bias)
  return layer


# --- Bi-Mamba ---------------------------------------------------------------


def fbi(vectors: Vectors):
  z = Reader(vectors)
  for head in heads(z, "_W"):
    spec = quantizers.fbi_weight(head, zero=0.0)
    w = jnp.asarray(kernel(z[f"{head}_W"]))
    bias = z.get(f"{head}_bias")
    layer = linear(z[f"{head}_W"], bias, None, spec)
    started = spec.parameters(w.shape[-1], w)
    held = layer.kernel_quantizer.learned
    for name, value in started.items():
      close(value, z[f"{head}_{name}_init"].reshape(value.shape), 2e-5)
      held[name][...] = jnp.asarray(z[f"{head}_{name}"]).reshape(value.shape)
    close(layer.kernel_quantizer(w), kernel(z[f"{head}_Weff"]), 2e-5)
    y, _, dparams, dx = vjp_of(layer, z[f"{head}_x"], z[f"{head}_gy"])
    close(y, z[f"{head}_y"], 2e-5)
    close_gradient(dx, z[f"{head}_dx"])
    close_gradient(dparams["kernel"][...], kernel(z[f"{head}_dW"]))
    if bias is not None:
      close_gradient(dparams["bias"][...], z[f"{head}_dbias"])
    gradients = dparams["kernel_quantizer"]["learned"]
    for name, value in started.items():
      want = z[f"{head}_d{name}"].reshape(value.shape)
      close_gradient(gradients[name][...], want)
  z.all_read()
