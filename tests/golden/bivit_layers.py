"""BiViT's layers and blocks: rules on Flax's own, with a file's weights.

Matrices are (out, in); q, k and v are the thirds of one, in that order, then
by heads. sign(0) = 0.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jbin
from jbin import nn, quantizers
from tests.golden.compare import (
  Reader,
  Vectors,
  close,
  close_gradient,
  pull,
  vjp_of,
)
from tests.golden.linears_layers import heads, linear
from tests.golden.torch_layers import kernel

SIGN = quantizers.sign(edge="open", zero=0.0)
KERNELS = {
  "absmean": quantizers.bivit_weight(learned=False, zero=0.0),
  "pws": quantizers.bivit_weight(zero=0.0),
}


def exact(got, want):
  np.testing.assert_array_equal(np.asarray(got, np.float64), want)


def set_scale(layer, scale):
  """The learned scale of a layer's kernel, where it has one."""
  held = layer.kernel_quantizer.learned
  if "alpha" in held:
    shape = held["alpha"].shape
    held["alpha"][...] = jnp.asarray(scale).reshape(shape)


def gradients(z: Vectors, head: str, dparams):
  """Of a linear layer: kernel, bias, and scale where the file has it."""
  got = dparams["kernel"][...]
  close_gradient(got, kernel(z[f"{head}weight"]).reshape(got.shape))
  got = dparams["bias"][...]
  close_gradient(got, z[f"{head}bias"].reshape(got.shape))
  if f"{head}scaling_factor" in z:
    got = dparams["kernel_quantizer"]["learned"]["alpha"][...]
    close_gradient(got, z[f"{head}scaling_factor"].reshape(got.shape))


# --- Layers -----------------------------------------------------------------


def binary_linear(vectors: Vectors):
  z = Reader(vectors)
  kinds = {**KERNELS, "w32a1": None}
  for head in heads(z, ".out"):
    kind, _, inputs = head.partition("_")
    assert inputs in ("", "a32"), head
    layer = linear(z["W"], z["bias"], None if inputs else SIGN, kinds[kind])
    if kind == "pws":
      set_scale(layer, z["scale"])
    y, _, dparams, dx = vjp_of(layer, z["x"], z["grad_out"])
    close(y, z[f"{head}.out"])
    close_gradient(dx, z[f"{head}.grad_x"])
    close_gradient(dparams["kernel"][...], kernel(z[f"{head}.grad_W"]))
    close_gradient(dparams["bias"][...], z[f"{head}.grad_bias"])
    if kind == "pws":
      got = dparams["kernel_quantizer"]["learned"]["alpha"][...]
      close_gradient(got, z[f"{head}.grad_scale"].reshape(got.shape))
  w = jnp.asarray(kernel(z["W"]))
  held = nn.Quantizer(KERNELS["pws"], w.shape[-1], w)
  first = z["pws.scale_after_first_run"]
  close(held.learned["alpha"][...], first.ravel())
  z.all_read()


# --- Probabilities ----------------------------------------------------------


def sab_attention(vectors: Vectors):
  """Softmax and its binarization, and BiBERT's bool on the same scores."""
  z = Reader(vectors)
  scores, g, beta = z["scores"], z["grad_out"], float(z["beta"])
  spec = quantizers.sab(beta)
  p = jax.nn.softmax(scores)
  close(p, z["softmax"])
  close(beta * p.max(-1, keepdims=True), z["threshold"])
  exact(spec(jnp.asarray(z["softmax"])).codes, z["binary"])
  exact(spec(p).codes, z["binary"])
  y, (ds,) = pull(lambda a: spec(jax.nn.softmax(a)).value, g, scores)
  exact(y, z["out"])
  close_gradient(ds, z["grad_scores"])
  step = quantizers.ste_heaviside(edge="open")
  y, (ds,) = pull(lambda a: step(a).value, g, scores)
  exact(y, z["bool_binary"])
  exact(ds, z["bool_grad_scores"])
  z.all_read()


def _error(rows, codes, scale=1.0):
  return np.square(rows - scale * codes).mean(-1)


def _best(rows):
  """The best count of ones of each row, its error, and all errors."""
  order = -np.sort(-rows, -1)
  counts = np.arange(1, rows.shape[-1] + 1)
  scales = np.cumsum(order, -1) / counts
  squares = np.square(rows).sum(-1, keepdims=True)
  found = (squares - counts * scales**2) / rows.shape[-1]
  plain = (squares - 2 * np.cumsum(order, -1) + counts) / rows.shape[-1]
  zero = squares / rows.shape[-1]  # no ones at all
  return counts[found.argmin(-1)], found.min(-1), np.append(zero, plain, -1)


def sab_coordinate_descent(vectors: Vectors):
  """float64: the search, the best code, and the rules of thumb."""
  z = Reader(vectors)
  rows, iterations = z["softmax"], z["v_iter"].shape[1]
  with jax.enable_x64(True):
    found = quantizers.coordinate_descent(jnp.asarray(rows), iterations)
    thumb = quantizers.sab(scaled=True)(jnp.asarray(rows))
  assert found.scale.dtype == np.float64
  exact(np.moveaxis(found.codes, 0, 1), z["b_iter"])
  close(np.moveaxis(found.scale[..., 0], 0, 1), z["v_iter"], 1e-12)
  close(np.moveaxis(found.threshold[..., 0], 0, 1), z["T_iter"], 1e-12)
  codes, scale = np.asarray(found.codes[-1]), np.asarray(found.scale[-1])
  close(_error(rows, codes, scale), z["mse_cd"], 1e-12)
  codes, scale = np.asarray(thumb.codes), np.asarray(thumb.scale)
  close(scale[:, 0], z["v_approx"])
  close(_error(rows, codes, scale), z["mse_approx_scaled"], 1e-7)
  close(_error(rows, codes), z["mse_approx_noscale"], 1e-12)
  count, least, plain = _best(rows)
  exact(count, z["k_exhaustive"])
  close(least, z["mse_exhaustive"], 1e-12)
  assert (z["mse_cd"] >= least - 1e-12).all()
  # The scores are not in the file: bool's code is of some largest entries.
  off = abs(plain - z["mse_bool"][:, None]).min(-1)
  assert off.max() < 1e-9
  z.all_read()


# --- Blocks -----------------------------------------------------------------


def _rule(case: str, learned: bool):
  """The rule of a case of the attention block."""
  soft = {"weights_quantizer": quantizers.sab()}
  hard = {
    "weights_quantizer": quantizers.ste_heaviside(edge="open"),
    "normalize": "none",
  }
  return jbin.Rule(
    input_quantizer=SIGN,
    kernel_quantizer=KERNELS["pws" if learned else "absmean"],
    query_quantizer=SIGN,
    key_quantizer=SIGN,
    value_quantizer=SIGN,
    **{"sab": soft, "baseline": hard}[case],
  )


def _attention(z: Vectors, rule: jbin.Rule):
  """The layer of a file: three kernels of one matrix, the heads apart."""
  count, dim = int(z["num_heads"]), z["x"].shape[-1]
  split = (dim, count, dim // count)
  model = nn.MultiHeadAttention(count, dim, rngs=nnx.Rngs(0))
  low = jbin.quantize(model, rule, jnp.asarray(z["x"]))
  parts = {name: np.split(z[f"qkv_{name}"], 3) for name in ("W", "b", "scale")}
  for i, name in enumerate(("query", "key", "value")):
    layer = getattr(low, name)
    layer.kernel[...] = jnp.asarray(parts["W"][i].T.reshape(split))
    layer.bias[...] = jnp.asarray(parts["b"][i].reshape(split[1:]))
    set_scale(layer, parts["scale"][i])
  low.out.kernel[...] = jnp.asarray(z["proj_W"].T.reshape(*split[1:], dim))
  low.out.bias[...] = jnp.asarray(z["proj_b"])
  set_scale(low.out, z["proj_scale"])
  return low


def _inside(z: Reader, case: str, layer):
  """What a file says of the way from the projections to the context."""
  taps = layer(jnp.asarray(z["x"]), taps=True)[1]
  query, key, value = taps
  if f"{case}.qkv_preact" in z:
    close(jnp.stack(taps).swapaxes(2, 3), z[f"{case}.qkv_preact"])
  signs = (SIGN(part).value for part in (query, key))
  scores = jnp.einsum("bqhd,bkhd->bhqk", *signs) * query.shape[-1] ** -0.5
  if f"{case}.scores" in z:
    close(scores, z[f"{case}.scores"])
  function = layer.attention_fn
  weights = (function.normalize or jax.nn.softmax)(scores)
  if f"{case}.binary_attn" in z:
    exact(function.weights_quantizer(weights).codes, z[f"{case}.binary_attn"])
  if f"{case}.context" in z:
    context = function(query, key, value)
    exact(context.reshape(z["x"].shape), z[f"{case}.context"])


def attention_block(vectors: Vectors):
  z = Reader(vectors)
  for case in heads(z, ".out"):
    learned = f"{case}.grad.qkv.scaling_factor" in z
    layer = _attention(z, _rule(case, learned))
    y, _, dparams, dx = vjp_of(layer, z["x"], z["grad_out"])
    close(y, z[f"{case}.out"])
    close_gradient(dx, z[f"{case}.grad_x"])
    _inside(z, case, layer)
    names = ["weight", "bias"] + ["scaling_factor"] * learned
    thirds = {n: np.split(z[f"{case}.grad.qkv.{n}"], 3) for n in names}
    for i, name in enumerate(("query", "key", "value")):
      gradients({n: thirds[n][i] for n in names}, "", dparams[name])
    gradients(z, f"{case}.grad.proj.", dparams["out"])
  z.all_read()


class Mlp(nnx.Module):
  """Two linear layers with the exact GELU between them."""

  def __init__(self, first, second):
    self.fc1, self.fc2 = first, second

  def __call__(self, x):
    return self.fc2(jax.nn.gelu(self.fc1(x), approximate=False))


def mlp_block(vectors: Vectors):
  z = Reader(vectors)
  for case in heads(z, ".out"):
    inputs, _, kind = case.partition("_")
    layers = [
      linear(
        z[f"{name}_W"],
        z[f"{name}_b"],
        {"a1": SIGN, "a32": None}[inputs],
        KERNELS[kind],
      )
      for name in ("fc1", "fc2")
    ]
    for name, layer in zip(("fc1", "fc2"), layers, strict=True):
      set_scale(layer, z[f"{name}_scale"])
    y, _, dparams, dx = vjp_of(Mlp(*layers), z["x"], z["grad_out"])
    close(y, z[f"{case}.out"])
    close_gradient(dx, z[f"{case}.grad_x"])
    for name in ("fc1", "fc2"):
      gradients(z, f"{case}.grad.{name}.", dparams[name])
  z.all_read()
