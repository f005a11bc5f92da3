r"""PokeBNN on ImageNet, the whole recipe of the paper.

Paper: PokeBNN: A Binary Pursuit of Lightweight Accuracy (2021), arXiv
2112.00133. Top-1 in the paper: 0.5x 65.2, 0.75x 70.5, 1.0x 73.4 %.
Hardware there: TPU v3-64 or v3-128; 124,800 steps of batch 8192.

Data: ImageNet as array records for TensorFlow Datasets ("imagenet2012"); set
TFDS_DATA_DIR, or --config.data.data_dir=DIR.
Teacher: ResNet-50 of 8 bits, trained first with
configs/resnet50_imagenet.py:w8a8 (77.43 % in the paper).

Command:
  jbin train --config=configs/pokebnn_imagenet.py:1.0x --workdir=runs/poke1x \
    --config.task.teacher_workdir=runs/resnet50_w8a8

Variations:
  configs/pokebnn_imagenet.py:0.5x        any width
  configs/pokebnn_imagenet.py:1.0x,labels without a teacher: from labels alone
  --config.image_size=128                 smaller images
  --config.model.quantized=False          the float twin
Differs from the paper: batch norm statistics are those of the global batch.
"""

import ml_collections

EPOCH = 156  # steps, at batch 8192
EPOCHS = 800


def get_config(arg="1.0x"):
  """`arg`: the width, as "1.0x"; "1.0x,labels" has no teacher."""
  size, _, task = arg.partition(",")
  try:
    width = float(size.removesuffix("x"))
  except ValueError:
    raise ValueError(f"the argument is a width as 1.0x, not {arg!r}") from None
  if task not in ("", "labels"):
    raise ValueError(f"after the width comes ',labels' or nothing, not {arg!r}")
  config = ml_collections.ConfigDict()

  config.seed = 0
  config.steps = EPOCHS * EPOCH
  config.batch_size = 8192
  config.image_size = 224
  config.dtype = "bfloat16"
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
      "name": "pokebnn",
      "width": width,
      "num_classes": 1000,
      "in_features": 3,
      "quantized": True,
      # Bounds of the 4- and 8-bit activations: from step 7500 on.
      "bounds_at": 7500 / (EPOCHS * EPOCH),
      # Binary kernels (and 4-, 8-bit ones): from epoch 50 on.
      "weights_from": 50 / EPOCHS,
    }
  )

  config.task = ml_collections.ConfigDict({"name": "classification"})
  if not task:
    config.task = ml_collections.ConfigDict(
      {
        "name": "distillation",
        "teacher_workdir": "",
        "temperature": 1.0,
        "hard_weight": 0.0,
      }
    )

  config.optimizer = ml_collections.ConfigDict(
    {
      "name": "adam",
      "b1": 0.9,
      "b2": 0.99,
      "eps": 1e-8,
      # 2e-5 for each 256 examples; 0 for the last 50 epochs.
      "learning_rate": {
        "name": "linear",
        "start": 2e-5 * 8192 / 256,
        "end": 0.0,
        "until": 750 / EPOCHS,
      },
      "weight_decay": 5e-5,
      "weight_decay_mode": "l2",
    }
  )

  config.mesh = ml_collections.ConfigDict({"data": -1, "fsdp": 1})
  return config
