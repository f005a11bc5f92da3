"""What transformers share: sizes of models, images that fit, MLPs, dropout."""

import inspect
import pickle

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jbin import errors, models, views
from jbin.models import _blocks
from tests import programs
from tests.models import abstract

# One image, four times.
IMAGES = np.random.default_rng(0).normal(size=(1, 8, 8, 3)).repeat(4, 0)
IMAGES = jnp.asarray(IMAGES, jnp.float32)
PYRAMID = {"features": (4, 4), "heads": (1, 1), "reductions": (1, 1)}
SMALL = {
  "vit": {"features": 8, "depth": 1, "heads": 2, "patch": 4, "image_size": 8},
  "swin": {
    "features": 4,
    "depths": (2,),
    "heads": (2,),
    "window": 2,
    "patch": 2,
    "image_size": 8,
  },
  "nest": {
    "features": (4, 8),
    "depths": (1, 1),
    "heads": (1, 2),
    "patch": 2,
    "image_size": 8,
  },
  "pvt_v2": {
    **PYRAMID,
    "depths": (1, 1),
    "mlp_ratios": (2, 2),
    "patches": (3, 3),
    "strides": (2, 2),
  },
  "twins_svt": {**PYRAMID, "depths": (2, 2), "strides": (4, 2)},
}
WHOLE = {
  "deit_t": "vit",
  "swin_s": "swin",
  "nest_t": "nest",
  "pvt_v2_b0": "pvt_v2",
  "twins_svt_s": "twins_svt",
  "bert_base": "bert",
  "llama_130m": "llama",
  "opt_125m": "opt",
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_size_refuses_what_makes_it(name):
  size, whole = (models.REGISTRY.get(key) for key in (name, WHOLE[name]))
  takes, every = (inspect.signature(f).parameters for f in (size, whole))
  fixed = [key for key in every if key not in takes]
  assert "heads" in fixed
  for key in fixed:
    text = f"{name}: '{key}' is .*; '{WHOLE[name]}' takes others"
    with pytest.raises(errors.UserError, match=text):
      size(7, **{key: 1}, rngs=nnx.Rngs(0))
  with pytest.raises(TypeError, match="unexpected keyword argument 'speed'"):
    size(7, speed=1, rngs=nnx.Rngs(0))
  assert size.__name__ == name
  assert pickle.loads(pickle.dumps(size)) is size


@pytest.mark.parametrize(
  ("name", "shape", "text"),
  [
    ("vit", (8, 8, 3), r"vit: expected images \(b, H, W, 3\)"),
    ("vit", (1, 8, 8, 1), "vit: expected images"),
    ("vit", (1, 8, 4, 3), "images of 8x8 pixels, got 8x4; make it with"),
    ("swin", (1, 8, 8, 1), "swin: expected images"),
    ("nest", (1, 8, 8, 1), "nest: expected images"),
    ("nest", (1, 16, 16, 3), "images of 8x8 pixels, got 16x16"),
    ("pvt_v2", (1, 8, 8, 1), "pvt_v2: expected images"),
    ("pvt_v2", (8, 8, 3), "pvt_v2: expected images"),
    ("pvt_v2", (1, 0, 8, 3), "pvt_v2: expected images"),
    ("twins_svt", (1, 8, 8, 1), "twins_svt: expected images"),
    (
      "twins_svt",
      (1, 35, 32, 3),
      "stage 0 has patches of 4x4, .* map of 35x32; .* multiples of 8 pixels",
    ),
    ("twins_svt", (1, 4, 8, 3), "stage 1 has patches of 2x2, .* map of 1x2"),
  ],
)
def test_images_that_do_not_fit(name, shape, text):
  model = abstract.build(name, **SMALL[name])
  with pytest.raises(errors.UserError, match=text):
    abstract.logits(model, shape)


@pytest.mark.parametrize(
  ("name", "options"),
  [
    ("vit", {"depth": 0}),
    ("pvt_v2", {"depths": (0, 1)}),
    ("nest", {"depths": (1, 0)}),
    ("bert", {"layers": 0, "features": 12, "dropout": 0.0}),
  ],
)
def test_a_model_of_no_blocks(name, options):
  with pytest.raises(errors.UserError, match="stack of 0 blocks cannot run"):
    abstract.build(name, **{**SMALL.get(name, {}), **options})


def test_a_ratio_of_whole_numbers_gives_them_back():
  for features in range(8, 449, 8):
    for hidden in range(4, 4 * features, 28):
      assert _blocks.hidden(features, hidden / features) == hidden
  options = {"features": 448, "heads": 7, "depth": 1}
  model = abstract.build("vit", **options, mlp_ratio=976 / 448)
  assert model.blocks.mlp.fc1.kernel.shape == (1, 448, 976)


_run = programs.once(lambda model, x: model(x))


@pytest.mark.parametrize("name", ["vit", "swin", "nest"])
def test_probabilities_are_dropped_in_training_alone(name):
  """Of each example by itself."""
  plain = abstract.build(name, **SMALL[name])
  assert not nnx.state(plain, nnx.RngState)
  model = models.REGISTRY.get(name)(
    5, **SMALL[name], attention_dropout=0.5, rngs=nnx.Rngs(0)
  )
  y = np.asarray(_run(model, IMAGES))
  assert np.abs(y[1:] - y[:1]).max() > 1e-4 * np.abs(y).max()
  still = np.asarray(_run(views.evaluation(model), IMAGES))
  np.testing.assert_allclose(still[1:], still[:1].repeat(3, 0), rtol=1e-5)
