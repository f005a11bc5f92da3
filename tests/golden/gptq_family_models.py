"""Whole decoders of the files: Llama and OPT, by the tables of checkpoints."""

import json

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import load_file

from jbin import lm, pretrained
from jbin.pretrained import _axes, _table
from jbin.tasks import _base
from tests.golden.compare import Reader, close_gradient

TOLERANCE = 1e-4


def close(got, want):
  np.testing.assert_allclose(
    np.asarray(got), want, rtol=TOLERANCE, atol=TOLERANCE
  )


def theirs(state):
  """{their name: array} of our parameters, or of their gradients."""
  flat = {
    "/".join(map(str, path)): np.asarray(variable[...])
    for path, variable in nnx.to_flat_state(state)
  }
  shapes = {path: array.shape for path, array in flat.items()}
  family = _table.family_of(nnx.Dict(), shapes)[1]
  return {
    piece.name: _axes.to_theirs(
      piece.axes, array if piece.member is None else array[piece.member]
    )
    for path, array in flat.items()
    for piece in family.pieces(path, shapes[path])
  }


def model_of(file, folder):
  """The model of one of its files: `tiny`, `tiny_config`, or `tiny_io`."""
  stem = file.stem.removesuffix("_io").removesuffix("_config")
  config = json.loads(file.with_name(f"{stem}_config.json").read_text())
  config["model_type"] = stem.split("_")[0]
  (folder / "config.json").write_text(json.dumps(config))
  weights = file.with_name(f"{stem}.safetensors")
  (folder / "model.safetensors").symlink_to(weights)
  return pretrained.model(folder), weights


def weights(file, folder):
  """A checkpoint goes into the model of its config, and comes out as it was."""
  model, checkpoint = model_of(file, folder)
  pretrained.save(model, folder / "again")
  found = load_file(folder / "again" / "model.safetensors")
  tensors = load_file(checkpoint)
  assert found.keys() == tensors.keys()
  for name, tensor in tensors.items():
    np.testing.assert_array_equal(found[name], tensor)


def whole(z: Reader, file, folder):
  """Logits, hidden states, the loss and its gradients, perplexity."""
  model, _ = model_of(file, folder)
  tokens = jnp.asarray(z["input_ids"], jnp.int32)

  @jax.jit
  @nnx.value_and_grad(has_aux=True)
  def run(model):
    out = model(tokens, taps=True)
    scores = jnp.reshape(out.logits[:, :-1], (-1, out.logits.shape[-1]))
    targets = jnp.reshape(tokens[:, 1:], (-1,))
    loss = jnp.mean(_base.hard_cross_entropy(scores, targets))
    last = model.norm(out.hidden[-1])
    return loss, (out.logits, [*out.hidden[:-1], last])

  (loss, (logits, hidden)), gradients = run(model)
  close(loss, z["ce_loss"])
  close(logits, z["logits"])
  for i, x in enumerate(hidden):
    close(x, z[f"hidden{i}"])
  for name, got in theirs(gradients).items():
    # Of a key's bias it is rounding alone: softmax cancels it.
    close_gradient(got, z[f"g_{name}"], TOLERANCE, floor=1e-6)
  perplexity(z, model)


def perplexity(z: Reader, model):
  """Of the stream, and of each of its windows."""
  (stream,), length = z["ppl_stream"], int(z["ppl_seqlen"])
  found = lm.perplexity(model, stream, length=length)
  np.testing.assert_allclose(found.perplexity, z["ppl"], rtol=TOLERANCE)
  means = z["ppl_window_mean_nll"]
  assert found.windows == len(means)
  for i, want in enumerate(means):
    window = stream[i * length :][:length]
    part = lm.perplexity(model, window, length=length)
    np.testing.assert_allclose(
      part.nats / part.predictions, want, rtol=TOLERANCE
    )
