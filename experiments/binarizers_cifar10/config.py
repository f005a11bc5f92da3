"""One small recipe for all methods: only what quantizes differs.

CIFAR-10 shrunk to 16x16 pixels (25,000 images to learn from, all 10,000 to
test), a ResNet of 8 layers with hard tanh and a shortcut around every
convolution, 800 steps of batch 128 with Adam. First and last layer are float.
Under a minute on one CPU core. README.md has the results, sweep.py runs them.

Command:
  jbin train --config=experiments/binarizers_cifar10/config.py:reste \
    --workdir=runs/binarizers_cifar10/reste-0
"""

import ml_collections

STEPS = 800

# What a method needs beside its name: groups of the config to add to.
MORE = {
  "bnn": {"optimizer": {"clip_latents": 1.0}},
  "binaryconnect": {"optimizer": {"clip_latents": 1.0}},
  "xnornet_k": {"rules": {"output_scale": "XnorMap"}},
  "bonn": {"regularizer": {"name": "bonn", "strength": 1e-4, "nu": 1e-3}},
  # So strong that the pulls of all steps add up to those of the paper's run.
  "proxquant": {
    "optimizer": {
      "name": "proxquant",
      "strength": {"name": "linear", "start": 0.0, "end": 6.0},
    }
  },
  # The rotation is set anew every 100 steps.
  "rbnn": {"rules": {"epochs": STEPS // 100}},
  "siman": {
    "optimizer": {
      "shrink_percent": {"name": "linear", "start": 15.0, "end": 0.0}
    }
  },
  # The flips' rate falls as the others' learning rate does.
  "bop": {
    "optimizer": {
      "name": "bop",
      "threshold": 1e-6,
      "gamma": {"name": "exponential", "start": 1e-2, "end": 1e-4},
    }
  },
}


def get_config(arg="reste"):
  """`arg`: a name of `jbin list methods`, or "float" for no quantizers."""
  config = ml_collections.ConfigDict()

  config.seed = 0
  config.steps = STEPS
  config.batch_size = 128
  config.eval_batch_size = 500
  config.image_size = 16
  config.dtype = "float32"
  config.log_every = 40
  config.eval_every = 0
  config.checkpoint_every = 0
  config.keep = 1
  config.workers = 0

  config.data = ml_collections.ConfigDict(
    {
      "name": "tfds",
      "dataset": "cifar10",
      "preset": "cifar",
      "train_split": "train[:50%]",
      "eval_split": "test",
    }
  )

  config.model = ml_collections.ConfigDict(
    {
      "name": "resnet20",
      "blocks": 1,
      "num_classes": 10,
      "in_features": 3,
      "activation": "hardtanh",
      "shortcut": "conv",
      "projection": "pool_pad",
    }
  )

  config.rules = ml_collections.ConfigDict({"name": "none"})
  if arg != "float":
    config.rules = ml_collections.ConfigDict({"name": "method", "method": arg})

  config.task = ml_collections.ConfigDict({"name": "classification"})

  config.optimizer = ml_collections.ConfigDict(
    {
      "name": "adam",
      "learning_rate": {"name": "cosine", "start": 1e-2},
      "weight_decay": 0.0,
    }
  )

  for group, values in MORE.get(arg, {}).items():
    config[group] = {**config.get(group, {}), **values}

  config.mesh = ml_collections.ConfigDict({"data": 1, "fsdp": 1})
  return config
