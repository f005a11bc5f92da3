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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from flax import nnx

from jbin import convert, models, optimizers, schedules
from jbin.train import config as config_lib, sharding, watching

_ROUNDS = flags.DEFINE_integer("rounds", 21, "Timed turns of each way.")
_WIDTH = flags.DEFINE_integer("width", 16, "Channels of the stem.")
_BATCH = flags.DEFINE_integer("batch", 64, "Images in a step.")

EVERY = {"off": 0, "idle": 10**9, "every": 1}


class State(NamedTuple):
  """What the step changes."""

  params: Any
  rest: Any
  opt_state: Any


class Now(NamedTuple):
  """What the host tells."""

  progress: Any


def step(
  graph: Any, optimizer: Any, state: State, batch: Any, now: Now, teacher: Any
) -> tuple[State, jax.Array]:
  """As the loop's, for a loss without labels."""
  del teacher
  rest = schedules.set_progress(state.rest, now.progress)

  def objective(params: Any) -> Any:
    model = nnx.merge(graph, params, rest, copy=True)
    loss = jnp.square(model(batch)).mean()
    return loss, nnx.split(model, nnx.Param, ...)[2]

  (loss, rest), grads = jax.value_and_grad(objective, has_aux=True)(
    state.params
  )
  params, opt_state, _ = optimizer.update(
    grads, state.opt_state, state.params, now.progress
  )
  return State(params, rest, opt_state), loss


def main(argv: Sequence[str]) -> None:
  del argv
  images = jax.random.normal(jax.random.key(1), (_BATCH.value, 32, 32, 3))
  # After a ReLU, signs would all be +1.
  model = models.resnet20(
    width=_WIDTH.value, activation="hardtanh", rngs=nnx.Rngs(0)
  )
  rules = convert.REGISTRY.get("bits")("w1a1_firstlastfloat")
  model = convert.quantize(model, rules, images)
  optimizer = optimizers.build(optimizers.sgd(0.9), 0.01)
  graph, params, rest = nnx.split(model, nnx.Param, ...)
  train_step = jax.jit(
    lambda *args: step(graph, optimizer, *args), donate_argnums=0
  )
  mesh = sharding.make_mesh(1, 1)
  now = Now(jnp.float32(0))
  states: dict[str, State] = {}
  watchers: dict[str, watching.Watcher] = {}
  times: dict[str, list[float]] = {name: [] for name in EVERY}
  with tempfile.TemporaryDirectory() as folder:
    for name, every in EVERY.items():
      fresh = State(params, rest, optimizer.init(params))
      states[name] = jax.tree.map(jnp.array, fresh)
      watchers[name] = watching.Watcher(
        config_lib.Watch(every), model, step, optimizer, mesh
      )
      if every:
        watchers[name].open(Path(folder), 0)
    for turn in range(1, _ROUNDS.value + 3):
      for name, watcher in watchers.items():
        start = time.perf_counter()
        watcher.before(turn, states[name], images, now, None)
        states[name], loss = train_step(states[name], images, now, None)
        watcher.after(turn)
        np.asarray(loss)
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
