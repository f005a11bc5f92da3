r"""BiViT on CIFAR-10: a small vision transformer, float and of one bit.

Paper: BiViT (2022), arXiv 2211.07091, which has TinyImageNet: all W1A1, Swin-T
58.7 % (BiBERT's way 41.9, float 80.6), NesT-T 52.2 (32.4, 80.3). Its parts, one
by one in NesT-T: with float MLPs softmax-aware binarization 68.5 to 70.7 and
learned scales 68.5 to 72.8; MLPs (W1A32) after the attention 58.2 to 69.8 %.
The net, a ViT of 6 blocks of 128 features, is ours, as are epochs and batch.

Data: CIFAR-10 as array records for TensorFlow Datasets; set TFDS_DATA_DIR, or
--config.data.data_dir=DIR.
Hardware: one GPU or TPU; at --config.image_size=16 a CPU, hours.

Command:
  jbin train --config=configs/bivit_cifar10.py:float \
    --workdir=runs/bivit_cifar10/float
  jbin train --config=configs/bivit_cifar10.py:bivit \
    --workdir=runs/bivit_cifar10/bivit \
    --config.start.workdir=runs/bivit_cifar10/float \
    --config.task.teacher_workdir=runs/bivit_cifar10/float

Variations:
  :bibert               scores compared with zero, mean scales, all at once
  :plain                signs of the probabilities too, all of which are 1
  :bivit_bool           BiViT with BiBERT's attention
  :bivit_mean           without learned scales
  :bivit_together       MLPs binary from the start, as the attention
  :bivit,w1a32          float inputs of the MLPs; :float has none of these
  --config.image_size=16                     smaller images
  --config.steps=3910                        ten epochs
Differs from the paper: net, data set, epochs, batch and augmentation; one
cosine over both stages.
"""

import ml_collections

IMAGES = 50_000
KINDS = ("w1a1", "w1a32")

BIVIT = {"name": "bivit", "attention": "sab", "scales": "learned"}
# Method -> its rules, and whether MLPs come in the second half.
METHODS = {
  "float": ({"name": "none"}, False),
  "bivit": (BIVIT, True),
  "bibert": ({**BIVIT, "attention": "bool", "scales": "mean"}, False),
  "plain": (
    {
      "name": "bibert",
      "attention": "softmax",
      "tables": "none",
      "path": ".*blocks/.*",
    },
    False,
  ),
  "bivit_bool": ({**BIVIT, "attention": "bool"}, True),
  "bivit_mean": ({**BIVIT, "scales": "mean"}, True),
  "bivit_together": (BIVIT, False),
}


def get_config(arg="bivit"):
  """`arg`: METHOD or METHOD,BITS of the MLPs: "bivit", "bivit,w1a32"."""
  method, _, mlp = arg.partition(",")
  mlp = mlp or KINDS[0]
  if method not in METHODS:
    raise ValueError(
      f"the argument is a method ({', '.join(METHODS)}), not {method!r}"
    )
  rules, later = METHODS[method]
  known = KINDS if rules["name"] == "bivit" else KINDS[:1]
  if mlp not in known:
    raise ValueError(
      f"the argument is {method!r} and perhaps ',' and one of"
      f" {', '.join(known)}, not {arg!r}"
    )
  batch_size, epochs = 128, 100
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
      "name": "vit",
      "num_classes": 10,
      "in_features": 3,
      "patch": 4,
      "features": 128,
      "depth": 6,
      "heads": 4,
      "mlp_ratio": 2.0,
      "pool": "mean",
      "drop_path": 0.0,
    }
  )

  config.rules = ml_collections.ConfigDict(rules)
  if rules["name"] == "bivit":
    config.rules.mlp = mlp
    config.rules.mlp_start = 0.5 if later else 0.0

  # The float run, which all others start from and learn from.
  config.start = ml_collections.ConfigDict({"workdir": "", "weights": ""})
  config.task = ml_collections.ConfigDict(
    {"name": "distillation", "teacher_workdir": "", "temperature": 1.0}
  )
  config.optimizer = ml_collections.ConfigDict(
    {
      "name": "adam",
      "learning_rate": {"name": "cosine", "start": 5e-4, "warmup": 5 / 300},
      "weight_decay": 0.0,
    }
  )
  if method == "float":
    config.model.drop_path = 0.1
    config.task = ml_collections.ConfigDict(
      {"name": "classification", "label_smoothing": 0.1}
    )
    config.optimizer = ml_collections.ConfigDict(
      {
        "name": "adamw",
        "learning_rate": {"name": "cosine", "start": 1e-3, "warmup": 0.05},
        "weight_decay": 0.05,
      }
    )

  config.mesh = ml_collections.ConfigDict({"data": -1, "fsdp": 1})
  return config
