"""BiBERT's layer, model and losses, as `models.bert` and rules make them.

Files follow the code: sign(0) = 0, bool(0) = 0.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jbin
from jbin import convert, models, nn, tasks
from tests.golden.bert_names import close_gradients, fill
from tests.golden.compare import (
  Reader,
  Vectors,
  close,
  close_gradient,
)


def at_zero(rules):
  """The rules, with PyTorch's sign(0) = 0."""

  def turned(item):
    signs = {field.name for field in dataclasses.fields(item)} >= {"zero"}
    if signs and item.zero == 1.0:
      return dataclasses.replace(item, zero=0.0)
    return item

  return [
    dataclasses.replace(
      rule,
      **{
        field.name: turned(getattr(rule, field.name))
        for field in dataclasses.fields(rule)
        if dataclasses.is_dataclass(getattr(rule, field.name))
      },
    )
    for rule in rules
  ]


class Joined(nnx.Module):
  """Heads side by side, in place of an attention's last map."""

  def __call__(self, x, out_sharding=None):
    del out_sharding
    return x.reshape(*x.shape[:-2], -1)


def one_layer(z: Reader, rules: str, **options):
  """The layer of a file, low-bit by a set of rules."""
  width = z["x"].shape[-1]
  model = models.bert(
    layers=1,
    features=width,
    heads=int(z["num_heads"]),
    mlp_features=len(z["param.intermediate.dense.bias"]),
    vocab_size=4,
    max_length=z["x"].shape[1],
    dropout=0.0,
    rngs=nnx.Rngs(0),
    **options,
  )
  low = jbin.quantize(model, at_zero(convert.REGISTRY.get(rules)()))
  (layer,) = nn.members(low.layers)
  fill(layer, z, "param.")
  return layer


def vjp(call, module, x, g):
  """Output, gradients of parameters and of `x`."""
  graph, params, rest = nnx.split(module, nnx.Param, ...)

  @jax.jit
  def run(params, x, g):
    y, back = jax.vjp(
      lambda params, x: call(nnx.merge(graph, params, rest, copy=True), x),
      params,
      x,
    )
    return y, *back(g)

  return run(params, jnp.asarray(x), jnp.asarray(g))


def layer_mask(z: Reader):
  return jnp.asarray(z["mask"])[:, None, None, :] > 0


def whole_layer(z: Reader, layer):
  """Output and gradients of the layer, of its attention's context."""
  mask = layer_mask(z)
  run = lambda layer, x: layer(x, mask)
  y, dparams, dx = vjp(run, layer, z["x"], z["grad_out"])
  close(y, z["layer.out"])
  close_gradient(dx, z["layer.grad_x"])
  close_gradients(dparams, z, "layer.grad.")
  attn = layer.attn
  attn.out = Joined()
  run = lambda attn, x: attn(x, mask=mask)
  y, dparams, dx = vjp(run, attn, z["x"], z["grad_out"])
  close(y, z["attn.context"])
  close_gradient(dx, z["attn.grad_x"])
  close_gradients({"attn": dparams}, z, "attn.grad.", "attention.self.")


def bert_layer(vectors: Vectors):
  z = Reader(vectors)
  layer = one_layer(z, "bibert")
  scores = []
  attn = layer.attn
  own = attn.attention_fn.normalize
  attn.attention_fn.normalize = lambda s: scores.append(s) or s
  assert attn.head_dim == z["head_dim"]
  mask = layer_mask(z)
  _, taps = attn(jnp.asarray(z["x"]), mask=mask, taps=True)
  (found,), want = scores, z["attn.scores_masked"]
  seen = np.broadcast_to(mask, want.shape)
  close(found[seen], want[seen])
  assert (found[~seen] < -1000).all()
  assert (want[~seen] < -1000).all()
  for name, x in taps._asdict().items():
    close(tasks.similarity(x), z[f"attn.{name}_scores"])
  attn.attention_fn.normalize = own
  whole_layer(z, layer)
  z.all_read()


def tiny_model(vectors: Vectors):
  """A whole training loss: every term, every gradient."""
  z = Reader(vectors)
  layers = len(z["hidden"]) - 1
  words, width = z["student.bert.embeddings.word_embeddings.weight"].shape
  positions = z["student.bert.embeddings.position_embeddings.weight"]
  inner = z["student.bert.encoder.layer.0.intermediate.dense.bias"]

  def make(depth):
    return models.bert(
      z["student_logits"].shape[-1],
      layers=depth,
      features=width,
      heads=int(z["num_heads"]),
      mlp_features=len(inner),
      vocab_size=words,
      max_length=len(positions),
      dropout=0.0,
      rngs=nnx.Rngs(0),
    )

  teacher = make(len(z["teacher_hidden"]) - 1)
  student = jbin.quantize(
    make(layers), at_zero(convert.REGISTRY.get("bibert")())
  )
  fill(student, z, "student.")
  fill(teacher, z, "teacher.")
  labels = z["labels"]
  regression = z["student_logits"].shape[-1] == 1
  if regression:
    labels = labels.astype(np.float32)
  batch = {
    "tokens": z["ids"],
    "segments": z["segments"],
    "token_mask": z["mask"],
    "label": labels,
  }
  batch = jax.tree.map(jnp.asarray, batch)
  task = tasks.distillation(
    "run",
    class_mean=True,
    hard_weight=0.0 if regression else 0.5,
    hidden_weight=1.0,
    similarity_weight=1.0,
  )
  graph, params, rest = nnx.split(student, nnx.Param, ...)
  asked, known = nnx.split(teacher)

  @jax.jit
  def run(params, known):
    def loss(params):
      model = nnx.merge(graph, params, rest, copy=True)
      return task.loss(model, batch, nnx.merge(asked, known))

    outputs = [
      model(*tasks.inputs(batch), taps=True)
      for model in (
        nnx.merge(graph, params, rest, copy=True),
        nnx.merge(asked, known),
      )
    ]
    return jax.value_and_grad(loss, has_aux=True)(params), outputs

  ((total, metrics), gradients), (mine, theirs) = run(params, known)
  close(mine.logits, z["student_logits"])
  close(theirs.logits, z["teacher_logits"])
  close(mine.hidden, z["hidden"])
  close(theirs.hidden, z["teacher_hidden"])
  mean = {name: s / n for name, (s, n) in metrics.items()}
  relative = lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-4)
  relative(total, z["total_loss"])
  relative(mean["loss"], z["total_loss"])
  relative(mean["hidden_loss"], z["rep_loss"])
  relative(
    mean["similarity_loss"],
    sum(z[f"{name}_loss"] for name in ("query", "key", "value")),
  )
  rest = mean["loss"] - mean["hidden_loss"] - mean["similarity_loss"]
  np.testing.assert_allclose(rest, z["cls_loss"], rtol=1e-4, atol=1e-5)
  if regression:
    assert z["ce_loss"] == 0
  else:
    relative(mean["cross_entropy"], z["ce_loss"])
  for name in ("query", "key", "value"):
    # One of the three at a time: the others are as the teacher's.
    alone = {name: getattr(mine, name)}
    relative(
      tasks.similarity_loss(theirs._replace(**alone), theirs),
      z[f"{name}_loss"],
    )
  close_gradients(gradients, z, "grad.")
  z.all_read()
