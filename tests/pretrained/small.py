"""Small models of every family."""

import functools

import numpy as np
from flax import nnx

from jbin import models
from jbin.pretrained import _load, _nest, _table

SMALL = {
  "vit": functools.partial(
    models.vit, 3, features=8, depth=3, heads=2, patch=8, image_size=32
  ),
  "vit without biases": functools.partial(
    models.vit, 3, features=8, depth=1, heads=2, image_size=32, qkv_bias=False
  ),
  "swin": functools.partial(
    models.swin, 3, features=8, depths=(2, 4), heads=(2, 4), window=4
  ),
  "swin of another ratio": functools.partial(
    models.swin, 3, features=12, depths=(2, 2), heads=(2, 4), mlp_ratio=2.4
  ),
  "pvt_v2": functools.partial(
    models.pvt_v2,
    3,
    features=(8, 16),
    depths=(1, 2),
    heads=(1, 2),
    mlp_ratios=(2, 3),
    reductions=(4, 1),
    patches=(7, 3),
    strides=(4, 2),
  ),
  "nest": functools.partial(
    models.nest, 3, features=(8, 16), depths=(2, 1), heads=(2, 4), image_size=32
  ),
}
TINY = {"features": 8, "layers": 2, "heads": 2, "mlp_features": 12}
TINY |= {"vocab_size": 20, "max_length": 10, "dropout": 0.0}
SMALL |= {
  "bert": functools.partial(models.bert, 3, **TINY),
  "bert without heads": functools.partial(models.bert, 0, **TINY),
  "bert_pretraining": functools.partial(
    models.bert, 2, pretraining=True, **TINY
  ),
  "bert of masked words": functools.partial(
    models.bert, 0, pretraining=True, **TINY
  ),
}
_STATES = {"vocab_size": 20, "layers": 2, "features": 8, "head_dim": 4}
_STATES |= {"state": 6, "groups": 2, "conv_width": 3, "chunk": 4}
SMALL |= {
  "mamba2": functools.partial(models.mamba2, **_STATES),
  "mamba2_untied": functools.partial(
    models.mamba2, tied=False, dt_limit=(0.01, float("inf")), **_STATES
  ),
}
_DECODER = {"vocab_size": 20, "layers": 2, "features": 12, "max_length": 10}
_DECODER |= {"heads": 2, "mlp_features": 16}
_LLAMA = functools.partial(models.llama, **_DECODER, rope_base=500.0)
SMALL |= {
  "llama": functools.partial(_LLAMA, kv_heads=1, head_dim=4),
  "llama_tied": functools.partial(_LLAMA, tied=True),
  "llama as qwen2": functools.partial(_LLAMA, qkv_bias=True),
  "llama as qwen3": functools.partial(_LLAMA, qk_norm=True),
  "llama as bitnet": functools.partial(
    _LLAMA, sub_norms=True, activation="relu2"
  ),
  "opt": functools.partial(models.opt, **_DECODER),
}


def tiny_nest(monkeypatch):
  """timm's NesT-T has 17 million weights; SMALL's has that name meanwhile."""
  sizes = ((8, 16), (2, 4), (2, 1))
  monkeypatch.setitem(_nest._SIZES, "tiny", sizes)


def abstract(make):
  """A model without numbers."""
  return nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0)))


def random(make):
  """A model with random numbers, and no compilation."""
  model = abstract(make)
  generator = np.random.default_rng(0)
  shapes = _table.shapes(model)
  _load.put(
    model,
    {
      path: generator.normal(size=shape).astype("f4")
      for path, shape in shapes.items()
    },
  )
  return model
