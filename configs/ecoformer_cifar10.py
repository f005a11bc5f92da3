r"""EcoFormer on CIFAR-10: a small PVTv2 in the paper's three steps.

Paper: EcoFormer (2022), arXiv 2209.09004, which has ImageNet: PVTv2-B0 with
softmax over all tokens 70.77 %, with hash codes 70.44. The net, a PVTv2 of 3
stages with 256, 64 and 16 tokens, is ours, as are epochs, batch and rates.

Data: CIFAR-10 as array records for TensorFlow Datasets; set TFDS_DATA_DIR, or
--config.data.data_dir=DIR.
Hardware: one GPU or TPU; a CPU in hours with the variations below.

Command:
  jbin train --config=configs/ecoformer_cifar10.py:sr \
    --workdir=runs/ecoformer_cifar10/sr
  jbin train --config=configs/ecoformer_cifar10.py:full \
    --workdir=runs/ecoformer_cifar10/full \
    --config.start.workdir=runs/ecoformer_cifar10/sr
  jbin train --config=configs/ecoformer_cifar10.py:hash \
    --workdir=runs/ecoformer_cifar10/hash \
    --config.start.workdir=runs/ecoformer_cifar10/full

Variations:
  :hash without start.workdir                hash codes from random numbers
  --config.model.shift=consistent            weights as the denominator has them
  --config.image_size=16 --config.model.strides="(1, 2, 2)"   as many tokens
  --config.steps=3910                        ten epochs
Differs from the paper: net, data set, epochs, batch, rates and augmentation.
"""

import ml_collections

IMAGES = 50_000
# Attention -> epochs, learning rate, rate of dropped branches.
STEPS = {
  "sr": (100, 1e-3, 0.1),
  "full": (30, 2e-4, 0.0),
  "hash": (30, 2e-4, 0.0),
}


def get_config(arg="hash"):
  """`arg`: the attention: sr, full or hash."""
  if arg not in STEPS:
    raise ValueError(f"the argument is one of {', '.join(STEPS)}, not {arg!r}")
  epochs, rate, drop_path = STEPS[arg]
  batch_size = 128
  epoch = -(-IMAGES // batch_size)  # steps
  config = ml_collections.ConfigDict()

  config.seed = 0
  config.steps = epochs * epoch
  config.batch_size = batch_size
  config.image_size = 32
  config.dtype = "float32"
  config.log_every = 50
  config.eval_every = 5 * epoch
  config.checkpoint_every = 5 * epoch
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
      "name": "pvt_v2",
      "num_classes": 10,
      "in_features": 3,
      "features": (32, 64, 128),
      "depths": (2, 2, 2),
      "heads": (1, 2, 4),
      "mlp_ratios": (4, 4, 4),
      "reductions": (4, 2, 1),
      "patches": (3, 3, 3),
      "strides": (2, 2, 2),
      "attention": arg,
      "bits": 16,
      "anchors": 25,
      "similar": 10,
      "shift": "own",
      "drop_path": drop_path,
    }
  )

  config.rules = ml_collections.ConfigDict({"name": "none"})
  # The run of the step before.
  config.start = ml_collections.ConfigDict({"workdir": "", "weights": ""})

  config.task = ml_collections.ConfigDict(
    {"name": "classification", "label_smoothing": 0.1}
  )

  config.optimizer = ml_collections.ConfigDict(
    {
      "name": "adamw",
      "learning_rate": {
        "name": "cosine",
        "start": rate,
        "end": rate / 25,
        "warmup": 0.05,
      },
      "weight_decay": 0.05,
    }
  )

  config.mesh = ml_collections.ConfigDict({"data": -1, "fsdp": 1})
  return config
