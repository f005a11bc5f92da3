"""LSQ, BiT's elastic binarization and BitNet against their vectors."""

import re

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jbin import nn, quantizers
from tests.golden.compare import Reader, Vectors, close, close_gradient, vjp_of
from tests.golden.torch_layers import kernel

GRADIENT = 1e-5


def cases(z: Vectors, pattern: str):
  """The matches of `pattern` (up to "__") among the keys, each once."""
  found = {}
  for key in z:
    head = key.partition("__")[0]
    if match := re.fullmatch(pattern, head):
      found[head] = match
  assert found, pattern
  return found.values()


def run(spec, x, g, **learned):
  """Value, dx and the learned gradients of a quantizer as a layer holds it."""
  layer = nn.Quantizer(spec, x.shape[-1], jnp.asarray(x))
  for name, value in learned.items():
    layer.learned[name][...] = jnp.asarray(value, jnp.float32)

  class Value(nnx.Module):
    def __init__(self):
      self.quantizer = layer

    def __call__(self, x):
      return self.quantizer(x).value

  y, _, dparams, dx = vjp_of(Value(), x, g)
  gradients = {
    name: dparams["quantizer"]["learned"][name][...] for name in learned
  }
  return y, dx, gradients


def lsq(vectors: Vectors):
  z = Reader(vectors)
  pattern = r"(s\d+)_b(\d)_(signed|pos)(_sym)?_(tensor|chan)_m([\d.]+)"
  for case in cases(z, pattern):
    head = case[0] + "__"
    x, g = (kernel(z[f"{case[1]}__{name}"]) for name in ("x", "gy"))
    spec = quantizers.lsq(
      int(case[2]),
      signed=case[3] == "signed",
      symmetric=bool(case[4]),
      per_channel=case[5] == "chan",
    )
    assert list(spec.levels) == z[f"{head}qn_qp"].tolist()
    start = spec.parameters(x.shape[-1], jnp.asarray(x))["step"]
    step = z[f"{head}s"].reshape(start.shape)
    close(float(case[6]) * start, step, 1e-6)
    y, dx, gradients = run(spec, x, g, step=step)
    close(y, kernel(z[f"{head}out"]), 1e-6)
    close_gradient(dx, kernel(z[f"{head}grad_x"]), GRADIENT)
    want = z[f"{head}grad_s"].reshape(start.shape)
    # Absolute: theirs is a difference of two sums, further from float64.
    close(gradients["step"], want, GRADIENT)
  z.all_read()


def bit_elastic(vectors: Vectors):
  z = Reader(vectors)
  for case in cases(z, r"(s\d+)_(signed|unsigned)_b(\d)"):
    spec = _elastic(case)
    x = jnp.asarray(z[f"{case[1]}__{_input(case)}"])
    close(spec.parameters(1, x)["alpha"], z[f"{case[0]}__alpha_init"], 1e-6)
  for case in cases(z, r"(s\d+)_(signed|unsigned)_b(\d)_alpha[\w.]+"):
    head = case[0] + "__"
    x, g = z[f"{case[1]}__{_input(case)}"], z[f"{case[1]}__gy"]
    y, dx, gradients = run(_elastic(case), x, g, alpha=z[f"{head}alpha"])
    close(y, z[f"{head}out"], 1e-6)
    close_gradient(dx, z[f"{head}grad_x"], GRADIENT)
    close_gradient(gradients["alpha"], z[f"{head}grad_alpha"], GRADIENT)
  for case in cases(z, r"bwn\d+_(layer|row)"):
    w, out, g, dw = (
      kernel(z[f"{case[0]}__{name}"]) for name in ("w", "out", "gy", "grad_w")
    )
    axes = (-1,) if case[1] == "row" else ()
    spec = quantizers.bit_weight(axes, zero=0.0)
    y, got, _ = run(spec, w, g)
    close(y, out, 1e-6)
    close_gradient(got, dw, GRADIENT)
  z.all_read()


def _elastic(case):
  return quantizers.bit_activation(
    int(case[3]), signed=case[2] == "signed", zero=0.0
  )


def _input(case):
  return "x" if case[2] == "signed" else "x_nonneg"


class Normed(nnx.Module):
  """A norm and a low-bit linear layer: BitLinear."""

  def __init__(self, norm, kernel, kernel_quantizer, input_quantizer):
    self.norm = norm
    self.linear = nn.Linear(
      *kernel.shape,
      use_bias=False,
      kernel_quantizer=kernel_quantizer,
      input_quantizer=input_quantizer,
      rngs=nnx.Rngs(0),
    )
    self.linear.kernel[...] = jnp.asarray(kernel)

  def __call__(self, x):
    return self.linear(self.norm(x))


def bitnet(vectors: Vectors):
  z, q = Reader(vectors), quantizers
  for case in cases(z, r"b158_\d+"):
    head = case[0] + "__"
    w = kernel(z[f"{head}weight"])
    norm = nnx.RMSNorm(
      len(w), epsilon=float(z[f"{head}rms_eps"]), rngs=nnx.Rngs(0)
    )
    norm.scale[...] = jnp.asarray(z[f"{head}rms_gamma"])
    specs = q.bitnet158_weight(), q.bitnet_activation()
    dparams = _layer(z, head, norm, w, *specs)
    want = z[f"{head}grad_rms_gamma"]
    close_gradient(dparams["norm"]["scale"][...], want, GRADIENT)
    made = specs[0](jnp.asarray(w))
    ternary = kernel(z[f"{head}w_ternary"])
    np.testing.assert_array_equal(made.codes, ternary)
    close(np.squeeze(made.scale), z[f"{head}w_absmean"], 1e-6)
    close(norm(jnp.asarray(z[f"{head}x"])), z[f"{head}x_norm"], 1e-6)
    close(specs[1](jnp.asarray(z[f"{head}x_norm"])), z[f"{head}x_quant"], 1e-6)
  for case in cases(z, r"b1_\d+"):
    head = case[0] + "__"
    w = kernel(z[f"{head}weight"])
    norm = nnx.LayerNorm(
      len(w), epsilon=1e-5, use_bias=False, use_scale=False, rngs=nnx.Rngs(0)
    )
    specs = q.bitnet_weight(), q.bitnet_activation(full=True, per_token=False)
    _layer(z, head, norm, w, *specs)
    x = norm(jnp.asarray(z[f"{head}x"]))
    close(specs[1](x), z[f"{head}x_quant"], 1e-6)
  # Zeros, of sizes that the file does not tell.
  for key in ("zero_weight_out", "zero_act_out"):
    rows, columns = z[key].shape
    x, w = jnp.ones((rows, columns)), jnp.ones((columns, columns))
    x, w = (x, 0 * w) if "weight" in key else (0 * x, w)
    x, w = q.bitnet_activation()(x), q.bitnet158_weight()(w)
    np.testing.assert_array_equal(jnp.dot(x.value, w.value), z[key])
  z.all_read()


def _layer(z, head, norm, w, kernel_quantizer, input_quantizer):
  """The layer's output and gradients; returns those of its parameters."""
  layer = Normed(norm, w, kernel_quantizer, input_quantizer)
  y, _, dparams, dx = vjp_of(layer, z[f"{head}x"], z[f"{head}gy"])
  close(y, z[f"{head}y"], 1e-6)
  close_gradient(dx, z[f"{head}grad_x"], GRADIENT)
  dw = kernel(z[f"{head}grad_weight"])
  close_gradient(dparams["linear"]["kernel"][...], dw, GRADIENT)
  value = jax.jit(lambda w: kernel_quantizer(w).value)(w)
  close(value, kernel(z[f"{head}w_quant"]), 1e-6)
  return dparams
