"""A config of a tiny net with batch norm and dropout; seconds on one core.

It registers its model, so that a command in another process finds it too.
"""

import jax
import ml_collections
from flax import nnx

from jbin import models, nn, quantizers


def tiny(
  width: int = 8,
  num_classes: int = 10,
  dropout: float = 0.25,
  in_features: int = 1,
  binary: bool = False,
  *,
  rngs: nnx.Rngs,
) -> nnx.Module:
  """A convolution, a norm, dropout and a classifier, which may be binary."""
  return Tiny(width, num_classes, dropout, in_features, binary, rngs)


class Tiny(nnx.Module):
  def __init__(self, width, num_classes, dropout, in_features, binary, rngs):
    # No bias: under a norm its gradient is rounding, which Adam enlarges.
    self.conv = nnx.Conv(
      in_features, width, (3, 3), strides=2, use_bias=False, rngs=rngs
    )
    self.norm = nnx.BatchNorm(width, rngs=rngs)
    self.dropout = nnx.Dropout(dropout, rngs=rngs)
    self.head = nn.Linear(
      16 * width,
      num_classes,
      input_quantizer=quantizers.sign() if binary else None,
      kernel_quantizer=quantizers.xnor() if binary else None,
      rngs=rngs,
    )

  def __call__(self, x):
    x = self.dropout(jax.nn.relu(self.norm(self.conv(x))))
    return self.head(x.reshape(x.shape[0], -1))


if "tiny" not in models.REGISTRY:
  models.REGISTRY.register(tiny)


def get_config(arg=""):
  if arg:
    raise ValueError(f"the argument is nothing, not {arg!r}")
  return ml_collections.ConfigDict(
    {
      "steps": 20,
      "batch_size": 64,
      "log_every": 4,
      "eval_every": 10,
      "checkpoint_every": 6,
      "model": {"name": "tiny", "width": 8, "dropout": 0.25},
      "data": {"name": "digits", "augment": True},
      "optimizer": {
        "name": "adam",
        "learning_rate": {"name": "cosine", "start": 3e-2, "warmup": 0.1},
        "weight_decay": 1e-4,
        "weight_decay_mode": "l2",
        "clip_norm": 1.0,
      },
      "mesh": {"data": 1, "fsdp": 1},
    }
  )
