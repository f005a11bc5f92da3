"""Parts of BiBERT: a linear layer, a word embedding, sign and bool, BertAdam.

Files follow the code: sign(0) = 0, bool(0) = 0.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jbin import nn, optimizers, quantizers, schedules, tasks
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


def dmd_loss(vectors: Vectors):
  """The distance alone, of patterns and of hidden states."""
  z = Reader(vectors)
  for head in heads(z, ".loss"):
    kept = (lambda x: x) if head == "hid" else tasks.unmasked

    def loss(a, b, kept=kept):
      return tasks.direction_distance(kept(a), kept(b))

    pair = z[f"{head}.student"], z[f"{head}.teacher"]
    value, (da, _) = pull(loss, np.float32(1), *pair)
    np.testing.assert_allclose(value, z[f"{head}.loss"], rtol=1e-4)
    close_gradient(da, z[f"{head}.grad_student"])
  z.all_read()


def bertadam(vectors: Vectors):
  """Steps of the optimizer; decay on what has two axes, and the rates."""
  z = Reader(vectors)
  names = [key[5:] for key in z if key.startswith("init.")]
  steps, base = int(z["t_total"]), float(z["base_lr"])
  rate = schedules.warmup_linear(base)
  made = optimizers.build(
    optimizers.bert_adam(), rate, 0.01, decay={n: n == "w" for n in names}
  )
  params = {n: jnp.asarray(z[f"init.{n}"], jnp.float32) for n in names}
  state = made.init(params)
  step = jax.jit(made.update)
  for t, want in enumerate(z["lr"]):
    grads = {n: jnp.asarray(z[f"grad.{n}"][t], jnp.float32) for n in names}
    now = schedules.progress_at(t, steps)
    params, state, found = step(grads, state, params, now)
    assert math.isclose(found, want, rel_tol=1e-5, abs_tol=1e-9)
    for n in names:
      close(params[n], z[f"traj.{n}"][t])
  z.all_read()
