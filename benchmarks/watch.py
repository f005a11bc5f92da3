r"""What watching costs: a training step, watched and not.

ResNet-20 with 1-bit layers on made images, in three ways: "off", the loop's
watcher is off; "idle", it is on, but this step is not watched; and "every", it
looks at each step and writes what it sees. The ways take turns within one run,
so that a drifting clock moves them alike; the ratio to "off" is taken in each
turn, and its median and spread are printed.

  python benchmarks/watch.py
  python benchmarks/watch.py --rounds=31 --width=64 --batch=16

Watching at every n-th step costs (ratio of "every" - 1) / n of the time.
"""

import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags

from jbin.train import (
  build,
  config as config_lib,
  program,
  sharding,
  step as step_lib,
  watching,
)

_ROUNDS = flags.DEFINE_integer("rounds", 21, "Timed turns of each way.")
_WIDTH = flags.DEFINE_integer("width", 16, "Channels of the stem.")
_BATCH = flags.DEFINE_integer("batch", 64, "Images in a step.")

EVERY = {"off": 0, "idle": 10**9, "every": 1}


def _config() -> config_lib.Config:
  """ResNet-20, W1A1 but for its ends, on random images."""
  return config_lib.from_mapping(
    {
      "steps": 10**9,
      "batch_size": _BATCH.value,
      "image_size": 32,
      # After a ReLU, signs would all be +1.
      "model": {
        "name": "resnet20",
        "width": _WIDTH.value,
        "activation": "hardtanh",
      },
      "rules": {"name": "bits", "bits": "w1a1_firstlastfloat"},
      "data": {"name": "synthetic"},
      "optimizer": {"name": "sgd", "momentum": 0.9, "learning_rate": 0.01},
      "mesh": {"data": 1},
    }
  )


def main(argv: Sequence[str]) -> None:
  del argv
  config = _config()
  source = build.dataset(config)
  made = program.of(config, source)
  mesh = sharding.of(config.mesh)
  train_step, pure = made.compile(mesh), made.on(mesh)
  batches = iter(source.train(config.batch_size, config.seed))
  batch = sharding.put(mesh, next(batches), split=True)
  batches.close()
  number, progress = sharding.put(mesh, (np.int32(1), np.float32(0)))
  now = step_lib.Now(number, progress, sharding.stops(mesh, False))
  states: dict[str, Any] = {}
  watchers: dict[str, watching.Watcher] = {}
  times: dict[str, list[float]] = {name: [] for name in EVERY}
  with tempfile.TemporaryDirectory() as folder:
    for name, every in EVERY.items():
      states[name] = made.flat(jax.jit(made.create)(jax.random.key(0), {}))
      watch = config_lib.Watch(every)
      watchers[name] = watching.Watcher(watch, made.model, pure, mesh)
      if every:
        watchers[name].open(Path(folder), 0)
    for turn in range(1, _ROUNDS.value + 3):
      for name, watcher in watchers.items():
        start = time.perf_counter()
        if watcher.is_due(turn):
          watcher.look(made.whole(states[name]), batch, now, ())
        states[name], seen = train_step(states[name], batch, now, ())
        watcher.after(turn)
        np.asarray(seen.loss)
        if turn > 2:  # the first turns compile
          times[name].append(time.perf_counter() - start)
    for watcher in watchers.values():
      watcher.close()
  for name, taken in times.items():
    pairs = zip(taken, times["off"], strict=True)
    ratios = [mine / off for mine, off in pairs]
    low, *_, high = statistics.quantiles(ratios, n=10)
    print(
      f"{name:6s} {1e3 * statistics.median(taken):7.1f} ms  ratio"
      f" {statistics.median(ratios):.3f} ({low:.3f}-{high:.3f})"
    )


if __name__ == "__main__":
  app.run(main)
