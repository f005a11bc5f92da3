"""A 1-bit PokeBNN-style net on real handwritten digits.

Data: 1,797 scans of 8x8 pixels from scikit-learn, a fifth held out.
Hardware: any CPU; minutes on 2 cores.

Command:
  jbin train --config=configs/quickstart.py --workdir=runs/quickstart/binary

Variations:
  configs/quickstart.py:float   the float twin: the same net, no quantizers
  --config.seed=1               another start
  --config.model.width=0.5      half the features
"""

import ml_collections


def get_config(arg=""):
  """`arg`: "" or "binary" for the 1-bit net, "float" for its twin."""
  if arg not in ("", "binary", "float"):
    raise ValueError(f"the argument is 'binary' or 'float', not {arg!r}")
  config = ml_collections.ConfigDict()

  config.seed = 0
  config.steps = 1000
  config.batch_size = 64
  config.log_every = 50
  config.eval_every = 100
  config.checkpoint_every = 500
  config.keep = 2

  config.data = ml_collections.ConfigDict({"name": "digits", "augment": True})

  config.model = ml_collections.ConfigDict(
    {
      "name": "pokebnn",
      "width": 1.0,
      "num_classes": 10,
      "stem": "conv3",
      "stages": (1, 1),
      "features": (64, 64),
      "expansion": 1,
      "in_features": 1,
      "quantized": arg != "float",
      # Binary from the first step; the bounds of the 4- and 8-bit
      # activations are set after a tenth.
      "bounds_at": 0.1,
      "weights_from": 0.0,
    }
  )

  config.task = ml_collections.ConfigDict({"name": "classification"})

  config.optimizer = ml_collections.ConfigDict(
    {
      "name": "adam",
      "b2": 0.99,
      "learning_rate": {"name": "linear", "start": 3e-3, "end": 0.0},
      "weight_decay": 0.0,
    }
  )

  config.mesh = ml_collections.ConfigDict({"data": 1, "fsdp": 1})
  return config
