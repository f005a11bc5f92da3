"""Binary linear layers of BiViT, BiBERT and Bi-Mamba, as `nn` has them.

Files have kernels (out, in), one bias for each output, and sign(0) = 0.
"""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jbin import nn, quantizers
from tests.golden.compare import (
  Reader,
  Vectors,
  close,
  close_gradient,
  pull,
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


# --- BiViT ------------------------------------------------------------------


def binary_linear(vectors: Vectors):
  z, q = Reader(vectors), quantizers
  x = q.sign(edge="open", zero=0.0)
  kinds = {
    "absmean": q.bivit_weight(learned=False, zero=0.0),
    "pws": q.bivit_weight(zero=0.0),
    "w32a1": None,
  }
  for head in heads(z, ".out"):
    kind, _, inputs = head.partition("_")
    assert inputs in ("", "a32"), head
    kernels = kinds[kind]
    layer = linear(z["W"], z["bias"], None if inputs else x, kernels)
    if kind == "pws":
      alpha = layer.kernel_quantizer.learned["alpha"]
      alpha[...] = jnp.asarray(z["scale"]).reshape(alpha.shape)
    y, _, dparams, dx = vjp_of(layer, z["x"], z["grad_out"])
    close(y, z[f"{head}.out"])
    close_gradient(dx, z[f"{head}.grad_x"])
    close_gradient(dparams["kernel"][...], kernel(z[f"{head}.grad_W"]))
    close_gradient(dparams["bias"][...], z[f"{head}.grad_bias"])
    if kind == "pws":
      got = dparams["kernel_quantizer"]["learned"]["alpha"][...]
      close_gradient(got, z[f"{head}.grad_scale"].reshape(got.shape))
  w = jnp.asarray(kernel(z["W"]))
  held = nn.Quantizer(kinds["pws"], w.shape[-1], w)
  first = z["pws.scale_after_first_run"]
  close(held.learned["alpha"][...], first.ravel())
  z.all_read()


# --- BiBERT -----------------------------------------------------------------


def quantize_linear(vectors: Vectors):
  """A linear layer and a word embedding; either may be alone."""
  z = Reader(vectors)
  parts = {key.partition(".")[0] for key in z}
  assert parts <= {"linear", "embed"}
  if "linear" in parts:
    _bibert_linear(z)
  if "embed" in parts:
    _bibert_embed(z)
  z.all_read()


def _bibert_linear(z: Vectors):
  layer = linear(
    z["linear.W"],
    z["linear.bias"],
    quantizers.sign(zero=0.0),
    quantizers.bibert_weight(zero=0.0),
  )
  y, _, dparams, dx = vjp_of(layer, z["linear.x"], z["linear.grad_out"])
  close(y, z["linear.out"])
  close_gradient(dx, z["linear.grad_x"])
  close_gradient(dparams["kernel"][...], kernel(z["linear.grad_W"]))
  close_gradient(dparams["bias"][...], z["linear.grad_bias"])


def _bibert_embed(z: Vectors):
  table, ids = z["embed.W"], z["embed.ids"]
  layer = nn.Embed(
    *table.shape,
    embedding_quantizer=quantizers.bibert_weight((0,), zero=0.0),
    rngs=nnx.Rngs(0),
  )
  layer.embedding[...] = jnp.asarray(table)
  # Theirs drops the gradient of padding, id 0; ours has no padding.
  g = np.where(ids[..., None] == 0, 0, z["embed.grad_out"])
  close(layer(jnp.asarray(ids)), z["embed.out"])
  gradients = nnx.grad(lambda layer: (layer(jnp.asarray(ids)) * g).sum())(layer)
  close_gradient(gradients["embedding"][...], z["embed.grad_W"])


def bert_quantizers(vectors: Vectors):
  """Sign and bool as queries, keys, values and scores have them."""
  z = Reader(vectors)
  signs = quantizers.sign(edge="open", zero=0.0)
  steps = quantizers.ste_heaviside(edge="open")
  kinds = {
    "sign": lambda x: signs(x).value,
    "bool": lambda x: steps(x).value,
  }
  for head in heads(z, ".out"):
    y, (dx,) = pull(kinds[head], z["grad_out"], z["x"])
    np.testing.assert_array_equal(y, z[f"{head}.out"])
    close_gradient(dx, z[f"{head}.grad_x"])
  z.all_read()


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
