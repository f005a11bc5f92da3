r"""ResNet-50 v1.5 on ImageNet, float or of 1 to 8 bits.

With w8a8 it is the teacher of PokeBNN (arXiv 2112.00133), which reaches 77.43 %
top-1 there, and the recipe is that teacher's.

Data: ImageNet as array records for TensorFlow Datasets ("imagenet2012"); set
TFDS_DATA_DIR, or --config.data.data_dir=DIR.
Hardware: a TPU v3-64 or the like; 250 epochs.

Command:
  jbin train --config=configs/resnet50_imagenet.py:w8a8 \
    --workdir=runs/resnet50_w8a8

Variations:
  configs/resnet50_imagenet.py:bf16               float; :float32 likewise
  configs/resnet50_imagenet.py:w4a4_firstlast8    4 bits, both ends 8
  configs/resnet50_imagenet.py:w8_weightonly      float activations
  --config.image_size=128                         smaller images
Differs from the paper: batch norm statistics are those of the global batch.
"""

import ml_collections

BATCH = 8192
EPOCH = 156  # steps, at batch 8192
EPOCHS = 250


def get_config(arg="w8a8"):
  """`arg`: bits of weights and activations, see `jbin.convert`'s "bits"."""
  config = ml_collections.ConfigDict()

  config.seed = 0
  config.steps = EPOCHS * EPOCH
  config.batch_size = BATCH
  config.image_size = 224
  config.dtype = "float32" if arg == "float32" else "bfloat16"
  config.log_every = 52
  config.eval_every = 5 * EPOCH
  config.checkpoint_every = 5 * EPOCH
  config.keep = 3
  config.workers = 16

  config.data = ml_collections.ConfigDict(
    {
      "name": "tfds",
      "dataset": "imagenet2012",
      "preset": "inception",
      "train_split": "train",
      "eval_split": "validation",
    }
  )

  config.model = ml_collections.ConfigDict(
    {
      "name": "resnet50",
      "num_classes": 1000,
      "in_features": 3,
    }
  )

  config.rules = ml_collections.ConfigDict(
    {
      "name": "bits",
      "bits": arg,
      # The bounds of activations are set after 6 % of training.
      "bounds_at": 0.06,
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
      "name": "sgd",
      "momentum": 0.9,
      "nesterov": True,
      # 0.1 for each 256 examples, 5 epochs of warm-up, cosine to a thousandth
      # by epoch 200, which the last 50 epochs keep.
      "learning_rate": {
        "name": "cosine",
        "start": 0.1 * BATCH / 256,
        "end": 0.001 * 0.1 * BATCH / 256,
        "warmup": 5 / EPOCHS,
        "until": 200 / EPOCHS,
      },
      "weight_decay": 1e-4,
      "weight_decay_mode": "l2",
    }
  )

  config.mesh = ml_collections.ConfigDict({"data": -1, "fsdp": 1})
  return config
