"""BiPFT's quantizers, layer, embedding, pooler and distillation terms.

Files have kernels (out, in) and sign(0) = 0.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jbin
from jbin import convert, models, quantizers, tasks
from tests.golden.bert_names import close_gradients, fill
from tests.golden.bibert_model import (
  at_zero,
  layer_mask,
  one_layer,
  vjp,
  whole_layer,
)
from tests.golden.compare import (
  Reader,
  Vectors,
  close,
  close_gradient,
)
from tests.golden.torch_layers import alone, kernel


def elastic(vectors: Vectors):
  """Both elastic quantizers with their start, both binary weights."""
  z = Reader(vectors)
  for head in ("signed", "unsigned"):
    spec = quantizers.bit_activation(signed=head == "signed", zero=0.0)
    x, g = z[f"{head}.x"], z["grad_out"]
    alpha = z[f"{head}.alpha"]
    y, dx, dlearned = alone(spec, x, g, alpha=alpha)
    close(y, z[f"{head}.out"])
    close_gradient(dx, z[f"{head}.grad_x"])
    close_gradient(dlearned["alpha"], z[f"{head}.grad_alpha"])
    start = spec.parameters(x.shape[-1], jnp.asarray(x))
    close(start["alpha"], z[f"{head}.init_alpha"])
    close(spec(jnp.asarray(x), **start).value, z[f"{head}.init_out"])
  for head, axes in (("tensor", ()), ("row", (-1,))):
    spec = quantizers.bit_weight(axes, zero=0.0)
    w, g = kernel(z["bwn.W"]), kernel(z["bwn.grad_out"])
    y, dw, _ = alone(spec, w, g)
    close(y, kernel(z[f"bwn_{head}.out"]))
    close_gradient(dw, kernel(z[f"bwn_{head}.grad_W"]))
  z.all_read()


def layer(vectors: Vectors):
  """A layer with low-rank residuals of any rank, of any number of heads."""
  z = Reader(vectors)
  made = one_layer(z, "bipft", low_rank=int(z["rank"]))
  mask, found = layer_mask(z), []
  attn = made.attn
  attn.attention_fn.normalize = lambda s: found.append(s) or jax.nn.softmax(s)
  attn(jnp.asarray(z["x"]), mask=mask)
  attn.attention_fn.normalize = None
  weights = attn.attention_fn.weights_quantizer(jax.nn.softmax(found[0]))
  close(weights.value, z["attn.binary_probs"])
  whole_layer(z, made)
  z.all_read()


def embedding_pooler(vectors: Vectors):
  """The table, whose padding has no gradient, and the pooler's shortcut."""
  z = Reader(vectors)
  table, ids = z["embed.W"], z["embed.ids"]
  width = z["pool.x"].shape[-1]
  make = lambda vocabulary, features: models.bert(
    layers=1,
    features=features,
    heads=1,
    mlp_features=1,
    vocab_size=vocabulary,
    max_length=ids.shape[1],
    dropout=0.0,
    pooler_residual=True,
    rngs=nnx.Rngs(0),
  )
  rules = at_zero(convert.REGISTRY.get("bipft")())
  model = jbin.quantize(make(*table.shape), rules)
  model.words.embedding[...] = jnp.asarray(table)
  look = lambda model, ids: model.look_up(ids.astype(jnp.int32))
  y, dparams, _ = vjp(look, model, ids.astype(np.float32), z["embed.grad_out"])
  close(y, z["embed.out"])
  close_gradient(dparams["words"]["embedding"][...], z["embed.grad_W"])
  model = jbin.quantize(make(2, width), rules)
  fill(model, z, "pool.param.", "bert.pooler.")
  pool = lambda model, x: model.pool(x)
  y, dparams, dx = vjp(pool, model, z["pool.x"], z["pool.grad_out"])
  close(y, z["pool.out"])
  close_gradient(dx, z["pool.grad_x"])
  close_gradients(dparams, z, "pool.grad.", "bert.pooler.")
  z.all_read()


def pretrain_kd(vectors: Vectors):
  """The two terms with a teacher, as the task has them."""
  z = Reader(vectors)
  logits, hidden = z["nsp_student"], z["hidden_student"]
  shape = hidden.shape[1:3]
  batch = {
    "tokens": jnp.zeros(shape, jnp.int32),
    "targets": jnp.full(shape, -1, jnp.int32),
  }
  task = tasks.masked_lm(0.0, "run")

  def model(logits, hidden):
    words = jnp.zeros((*shape, 4))
    taps = models.Outputs(logits, hidden, *[jnp.zeros(0)] * 3, words)
    return lambda tokens, *, taps_=taps, taps: taps_

  teacher = model(
    jnp.asarray(z["nsp_teacher"]), jnp.asarray(z["hidden_teacher"])
  )

  def loss(logits, hidden):
    value, metrics = task.loss(model(logits, hidden), batch, teacher)
    return value, {
      name: s / n
      for name, (s, n) in metrics.items()
      if "soft" in name or "hidden" in name
    }

  found = jax.value_and_grad(loss, (0, 1), has_aux=True)
  (value, means), (dlogits, dhidden) = found(
    *map(jnp.asarray, (logits, hidden))
  )
  close(means["soft_loss"], z["cls_dist_loss"])
  close(means["hidden_loss"], z["rep_dist_loss"])
  close(value, z["cls_dist_loss"] + z["rep_dist_loss"])
  close_gradient(dlogits, z["grad_nsp"])
  close_gradient(dhidden, z["grad_hidden"])
  z.all_read()
