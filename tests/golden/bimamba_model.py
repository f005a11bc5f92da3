"""Whole language models of Bi-Mamba's files."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import load_file

from jbin import pretrained, tasks
from jbin.tasks import _base
from tests.golden import bimamba_names as names
from tests.golden.bimamba_layers import forward, gradient
from tests.golden.compare import Reader


def weights(file):
  """A checkpoint goes into a model, and comes out as it was."""
  tensors = load_file(file)
  with np.load(file.with_name(f"{file.stem}_io.npz")) as archive:
    cfg = archive["cfg"]
  found = names.theirs(nnx.state(_filled(file, cfg), nnx.Param))
  assert found.keys() == tensors.keys()
  for name, tensor in tensors.items():
    np.testing.assert_array_equal(found[name], tensor)


def _filled(file, cfg):
  binary = any(name.endswith(".wscale") for name in load_file(file))
  model = names.make(cfg, binary=binary)
  pretrained.restore(model, file)
  return model


def whole(z: Reader, file):
  """Logits, losses and gradients, streams, greedy decoding."""
  checkpoint = file.with_name(f"{file.stem.removesuffix('_io')}.safetensors")
  model = _filled(checkpoint, z["cfg"])
  tokens = jnp.asarray(z["input_ids"], jnp.int32)
  teacher = jnp.asarray(z["teacher_logits"])
  teacher = jnp.reshape(teacher, (-1, teacher.shape[-1]))
  graph, params, rest = nnx.split(model, nnx.Param, ...)

  @jax.jit
  def run(params, tokens):
    def loss(params):
      model = nnx.merge(graph, params, rest, copy=True)
      out = model(tokens, taps=True)
      flat = jnp.reshape(out.logits, teacher.shape)
      kd = tasks.soft_cross_entropy(flat, teacher)
      return kd, (out, model.norm(out.hidden[-1]))

    (kd, found), back = jax.value_and_grad(loss, has_aux=True)(params)
    logits = found[0].logits[:, :-1]
    logits = jnp.reshape(logits, (-1, logits.shape[-1]))
    targets = jnp.reshape(tokens[:, 1:], (-1,))
    ce = jnp.mean(_base.hard_cross_entropy(logits, targets))
    return kd, ce, *found, back

  kd, ce, out, last, back = run(params, tokens)
  forward(kd, z["kd_loss"])
  forward(ce, z["ce_loss"])
  forward(out.logits, z["logits"])
  forward(last, z["hidden_last_norm"])
  streams = sorted(key for key in z if key.startswith("block"))
  # What leaves a block, although the README says that it enters.
  for stream, key in zip(out.hidden[1:], streams, strict=True):
    forward(stream, z[key])
  for name, got in names.theirs(back).items():
    gradient(got, z[f"g_{name}"])
  greedy(z, model, tokens[:, : int(z["greedy_prompt_len"])])


def greedy(z: Reader, model, prompt):
  """The best word again and again, from a cache."""

  @nnx.jit
  def run(model, tokens, cache):
    logits, cache = model(tokens, cache=cache)
    return logits[:, -1], cache

  said, scores = [], []
  cache, tokens = model.init_cache(len(prompt)), prompt
  for _ in range(z["greedy_step_logits"].shape[1]):
    logits, cache = run(model, tokens, cache)
    tokens = jnp.argmax(logits, -1)[:, None]
    scores.append(logits)
    said.append(tokens)
  forward(jnp.stack(scores, 1), z["greedy_step_logits"])
  words = jnp.concatenate(said[:-1], 1)
  np.testing.assert_array_equal(words, z["greedy_tokens"])
