"""PokeBNN on CIFAR-10: 3x3 stem, no teacher.

The network and the two phases (bounds, then binary kernels) are the paper's
(PokeBNN, arXiv 2112.00133); it has no CIFAR-10 figures.

Data: CIFAR-10 as array records for TensorFlow Datasets; set TFDS_DATA_DIR, or
--config.data.data_dir=DIR.
Hardware: one GPU or TPU.

Command:
  jbin train --config=configs/pokebnn_cifar10.py --workdir=runs/poke_cifar10

Variations:
  --config.model.quantized=False          the float twin
  --config.model.width=2.0                wider
  --config.steps=200 --config.model.width=0.25    a first look on a CPU
"""

import ml_collections

EPOCH = 196  # steps, at batch 256
EPOCHS = 200


def get_config(arg="1.0x"):
  """`arg`: the width, as "1.0x"."""
  try:
    width = float(arg.removesuffix("x"))
  except ValueError:
    raise ValueError(f"the argument is a width as 1.0x, not {arg!r}") from None
  config = ml_collections.ConfigDict()

  config.seed = 0
  config.steps = EPOCHS * EPOCH
  config.batch_size = 256
  config.image_size = 32
  config.dtype = "float32"
  config.log_every = 49
  config.eval_every = 5 * EPOCH
  config.checkpoint_every = 5 * EPOCH
  config.keep = 2
  config.workers = 0

  config.data = ml_collections.ConfigDict(
    {
      "name": "tfds",
      "dataset": "cifar10",
      "preset": "cifar",
      "train_split": "train",
      "eval_split": "test",
    }
  )

  config.model = ml_collections.ConfigDict(
    {
      "name": "pokebnn",
      "width": width,
      "num_classes": 10,
      "in_features": 3,
      "stem": "conv3",
      "stages": (2, 2, 2),
      "features": (32, 64, 128),
      "quantized": True,
      "bounds_at": 0.06,
      "weights_from": 0.0625,
    }
  )

  config.task = ml_collections.ConfigDict(
    {
      "name": "classification",
      "label_smoothing": 0.0,
    }
  )

  config.optimizer = ml_collections.ConfigDict(
    {
      "name": "adam",
      "b1": 0.9,
      "b2": 0.99,
      "learning_rate": {"name": "linear", "start": 2e-3, "end": 0.0},
      "weight_decay": 5e-5,
      "weight_decay_mode": "l2",
    }
  )

  config.mesh = ml_collections.ConfigDict({"data": -1, "fsdp": 1})
  return config
