"""Runs of a net with hash codes: fitted on the first batch, and once."""

import jax
import numpy as np
import pytest
from flax import nnx

from jbin import models, nn
from jbin.train import build, calibrate, loop, making, restore, sharding

STILL = {"name": "sgd", "learning_rate": 0.0}
QUICK = nn.HashLearning(similar=4, iterations=3)


def pixels(
  num_classes: int = 10,
  in_features: int = 1,
  hashed: bool = True,
  *,
  rngs: nnx.Rngs,
) -> nnx.Module:
  """Attention of pixels, softmax or with hash codes."""
  return Pixels(num_classes, in_features, hashed, rngs)


class Pixels(nnx.Module):
  def __init__(self, num_classes, in_features, hashed, rngs):
    self.embed = nnx.Linear(in_features, 8, rngs=rngs)
    self.drop = nnx.Dropout(0.5, rngs=rngs)
    if hashed:
      self.attn = nn.HashAttention(
        8, 2, bits=4, anchors=5, learning=QUICK, rngs=rngs
      )
    else:
      self.attn = nn.MultiHeadAttention(2, 8, rngs=rngs)
    self.head = nnx.Linear(8, num_classes, rngs=rngs)

  def __call__(self, x):
    x = self.tokens(x)
    return self.head(self.drop(x + self.attn(x)).mean(1))

  def tokens(self, x):
    x = self.embed(x.reshape(len(x), -1, x.shape[-1]))
    return jax.nn.gelu(x)

  def adapt(self, values):
    return models.hash_start(values, self)


if "pixels" not in models.REGISTRY:
  models.REGISTRY.register(pixels)


@pytest.fixture(scope="module")
def pixels_config(changed_config):
  """`pixels_config(hashed, ...)`: one step that changes no parameter."""

  def make(hashed=True, **changes):
    model = {"name": "pixels", "hashed": hashed}
    some = {"model": model, "steps": 1, "eval_every": 0, "optimizer": STILL}
    return changed_config(**{**some, **changes})

  return make


@pytest.fixture(scope="module")
def softmax(pixels_config, tmp_path_factory):
  """A run without hash codes."""
  workdir = tmp_path_factory.mktemp("softmax")
  loop.run(pixels_config(hashed=False), workdir)
  return workdir


def _maker(config):
  return making.maker(config.model, made_for=build.dataset(config))


def _model(config, workdir):
  _, graphdef, state = restore.restore_model(
    _maker(config), workdir, sharding.make_mesh(1, 1)
  )
  return nnx.merge(graphdef, *state)


def _hash(model):
  """{name: array} of what is fitted."""
  flat = nnx.to_flat_state(nnx.state(model, nn.HashState))
  return {path[-1]: np.asarray(leaf[...]) for path, leaf in flat}


def test_the_loop_fits_a_hash_on_the_first_batch(
  pixels_config, softmax, tmp_path
):
  """In a run that starts from one without, and goes on from a checkpoint."""
  config = pixels_config(start={"workdir": str(softmax)})
  assert calibrate.is_due(nnx.eval_shape(_maker(config)))
  result = loop.run(config, tmp_path / "a")
  assert np.isfinite(result["loss"])
  model = _model(config, tmp_path / "a")
  source = _model(pixels_config(hashed=False), softmax)
  for own, theirs in (("qk", "query"), ("value", "value"), ("out", "out")):
    np.testing.assert_array_equal(
      getattr(model.attn, own).kernel[...],
      getattr(source.attn, theirs).kernel[...],
    )
  found = _hash(model)
  assert found["fitted"]
  # By hand: what the layer sees of the batch that comes first.
  batches = iter(build.dataset(config).train(config.batch_size, config.seed))
  image = next(batches)["image"]
  batches.close()
  made = _maker(config)()
  want = made.attn.hash
  want.fit(model.attn.qk(model.tokens(image)))
  for name in ("anchors", "means", "weights"):
    np.testing.assert_allclose(
      found[name], getattr(want, name)[...], rtol=1e-4, atol=1e-5, err_msg=name
    )
  # Streams and the like stay as they were made: the fit is no step.
  drawn = nnx.state(model, nnx.RngCount)
  assert jax.tree.leaves(drawn)[0] == 1

  # The run goes on with it, and one that starts from it keeps it.
  longer = pixels_config(start={"workdir": str(softmax)}, steps=2)
  loop.run(longer, tmp_path / "a")
  other = pixels_config(start={"workdir": str(tmp_path / "a")}, seed=3)
  loop.run(other, tmp_path / "b")
  for config, name in ((longer, "a"), (other, "b")):
    for key, array in _hash(_model(config, tmp_path / name)).items():
      np.testing.assert_array_equal(array, found[key], err_msg=key)
