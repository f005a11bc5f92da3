r"""The parts of `scale.py` that run: losses across meshes, the host's share.

`losses`: the same run on several meshes; how far its losses are from those on
one device. `host`: the loop with a step that does nothing, which is the host's
own work; the call of a compiled program that takes and gives the same arrays,
and does nothing; and the loop's steps against those of the same compiled step,
called again and again on one batch, in turns.
"""

import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jbin import data
from jbin.cli import _flags
from jbin.train import (
  build,
  config as config_lib,
  evaluation,
  loop,
  program,
  sharding,
  step as step_lib,
)

ROOT = Path(__file__).parents[1] / "configs"
MESHES = {
  "1": (1, 1, 1),
  "data 8": (8, 1, 1),
  "data 2, fsdp 4": (2, 4, 1),
  "fsdp 4, tensor 2": (1, 4, 2),
}
AT = (1, 2, 5, 20, 50)
LOSSES = {
  "llama, float": ("bimamba_text.py:llama", {"length": 64}),
  "FBI-LLM, W1": ("bimamba_text.py:fbi_llm,labels", {"length": 64}),
  "PokeBNN, W1A1": ("quickstart.py", {}),
}
HOST = {
  "quickstart, 1 bit": "quickstart.py",
  "quickstart, float": "quickstart.py:float",
}
ROUNDS, STEPS = 7, 100


def _config(spec: str, **changes: Any) -> config_lib.Config:
  """A config of the project, with changes."""
  made = _flags.load(str(ROOT / spec))
  return config_lib.from_mapping(made.to_dict() | changes)


def _losses(config: config_lib.Config) -> list[float]:
  """Of each step of a run in a folder of its own."""
  with tempfile.TemporaryDirectory() as folder:
    loop.run(config, Path(folder))
    lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
  records = map(json.loads, lines)
  return [each["loss"] for each in records if each["split"] == "train"]


def losses() -> Iterator[str]:
  """Relative distance of losses from those on one device."""
  yield f"| net | mesh | {' | '.join(f'step {n}' for n in AT)} |"
  yield "| --- | --- |" + " ---: |" * len(AT)
  for name, (spec, changes) in LOSSES.items():
    found = {}
    for said, sizes in MESHES.items():
      mesh = dict(zip(("data", "fsdp", "tensor"), sizes, strict=True))
      config = _config(
        spec,
        mesh=mesh,
        steps=max(AT),
        **changes,
        log_every=1,
        eval_every=0,
        checkpoint_every=0,
      )
      found[said] = _losses(config)
      first = found["1"]
      cells = [f"{found[said][n - 1] / first[n - 1] - 1:+.1e}" for n in AT]
      if said == "1":
        cells = [f"{first[n - 1]:.4f}" for n in AT]
      yield f"| {name} | {said} | {' | '.join(cells)} |"


def host() -> Iterator[str]:
  """Milliseconds of a step: the host's, the call's, the loop's, the program's.

  The first two are what the device would wait for, if the host never ran ahead
  of it; a batch is made beside them, in a thread of its own.
  """
  yield (
    "| net | host | call | batch | loop | compiled step alone |"
    " (host + call) / step | 1 - step / loop (10-90 %) |"
  )
  yield "| --- |" + " ---: |" * 7
  for name, spec in HOST.items():
    config = _config(
      spec,
      steps=STEPS,
      log_every=STEPS // 2,
      eval_every=0,
      checkpoint_every=0,
    )
    alone, call = _alone(config)
    loops, steps, calls, hosts, waits = [], [], [], [], []
    for _ in range(ROUNDS):
      loops.append(_in_the_loop(config)[0])
      steps.append(alone())
      calls.append(call())
      with _empty_step():
        whole, waiting = _in_the_loop(config)
      waits.append(whole * waiting)
      hosts.append(whole - waits[-1])
    shares = [1 - a / b for a, b in zip(steps, loops, strict=True)]
    low, high = np.quantile(shares, (0.1, 0.9))
    columns = (hosts, calls, waits, loops, steps)
    middle = [1e3 * statistics.median(column) for column in columns]
    cells = [
      *(f"{x:.2f} ms" for x in middle),
      f"{(middle[0] + middle[1]) / middle[-1]:.1%}",
      f"{statistics.median(shares):.1%} ({low:.1%} to {high:.1%})",
    ]
    yield f"| {name} | {' | '.join(cells)} |"


@contextlib.contextmanager
def _empty_step() -> Iterator[None]:
  """Loops that are run inside take steps that do nothing."""
  compile_step = program.Program.compile

  def compile_none(made: program.Program, mesh: Any) -> Any:
    compiled = compile_step(made, mesh)
    where = sharding.replicated(mesh)
    zeros = jax.device_put((np.float32(0), np.int32(0)), where)
    seen = step_lib.Seen(*zeros)

    class Empty:
      """Knows its memory as the compiled step does."""

      memory_analysis = compiled.memory_analysis

      def __call__(self, state: Any, *rest: Any) -> Any:
        return state, seen

    return Empty()

  program.Program.compile = compile_none
  try:
    yield
  finally:
    program.Program.compile = compile_step


def _in_the_loop(config: config_lib.Config) -> tuple[float, float]:
  """Seconds of a step in a run's second half, and the share for its batch."""
  with tempfile.TemporaryDirectory() as folder:
    loop.run(config, Path(folder))
    lines = (Path(folder) / "timing.jsonl").read_text().splitlines()
  last = json.loads(lines[-1])
  return 1 / last["steps_per_second"], last["wait_data"]


def _alone(config: config_lib.Config) -> Any:
  """Two functions that give seconds: of a step, and of a call for nothing."""
  source: data.Dataset = build.dataset(config)
  made = program.of(config, source)
  mesh = sharding.of(config.mesh)
  step = made.compile(mesh)
  create = jax.jit(made.create, out_shardings=made.shardings(mesh))
  batches = iter(source.train(config.batch_size, config.seed))
  batch = sharding.put(mesh, next(batches), split=True)
  batches.close()
  stop = sharding.stops(mesh, False)
  number, progress = sharding.put(mesh, (np.int32(1), np.float32(0.5)))
  now = step_lib.Now(number, progress, stop)
  state = made.flat(create(jax.random.key(config.seed), {}))

  def run() -> float:
    nonlocal state
    seen: list[jax.Array] = []
    begin = time.perf_counter()
    for _ in range(STEPS // 2):
      state, told = step(state, batch, now, ())
      seen.append(told.stop)
      if len(seen) > evaluation.AHEAD:  # no more in flight than in the loop
        jnp.asarray(seen.pop(0)).block_until_ready()
    jax.block_until_ready(state)
    return (time.perf_counter() - begin) / (STEPS // 2)

  nothing = jax.jit(
    lambda state, batch, now: (state, now.step), donate_argnums=0
  )
  nothing = nothing.lower(state, batch, now).compile()

  def call() -> float:
    nonlocal state
    begin = time.perf_counter()
    for _ in range(STEPS):
      state, _ = nothing(state, batch, now)
    jax.block_until_ready(state)
    return (time.perf_counter() - begin) / STEPS

  run()
  call()
  return run, call
