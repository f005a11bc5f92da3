"""A config of a tiny language model on a file of tokens, its argument."""

import ml_collections


def get_config(arg=""):
  return ml_collections.ConfigDict(
    {
      "steps": 16,
      "batch_size": 8,
      "log_every": 1,
      "checkpoint_every": 4,
      "model": {
        "name": "llama",
        "layers": 1,
        "features": 16,
        "heads": 2,
        "mlp_features": 16,
      },
      "task": {"name": "language_model"},
      "data": {"name": "text", "files": (arg,), "length": 16},
      "optimizer": {"name": "adam", "learning_rate": 1e-2},
      "mesh": {"data": 1, "fsdp": 1},
    }
  )
