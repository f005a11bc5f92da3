"""The training loop, top to bottom.

config -> mesh -> data -> model and optimizer, created sharded -> compiled step
-> evaluation -> checkpoint -> metrics -> report. `run` is the whole way, and
stopping it at any step and calling it again goes on bit for bit.
"""

from __future__ import annotations

import collections
import functools
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from flax import nnx
from jax.sharding import Mesh

from jbin import data, optimizers, schedules, shards, tasks
from jbin.train import (
  build,
  calibrate,
  checkpoint,
  config as config_lib,
  counting,
  evaluation,
  interrupt,
  making,
  metrics,
  restore,
  sharding,
  start,
  watching,
)


class State(NamedTuple):
  """All that changes from step to step, and so all that is saved."""

  params: nnx.State
  # What is learned by gradient.
  rest: nnx.State
  # Batch statistics, quantizers' statistics, progress, dropout's random keys.
  opt_state: Any
  # The optimizer's moments and count.
  sums: tasks.Metrics
  # Running (sum, count) of each metric since the last line was written.
  bad: jax.Array
  # By metric: the first step after which it was not finite, or -1.


class Now(NamedTuple):
  """What the host tells the device each step."""

  step: Any
  # int32: steps done after this one.
  progress: Any
  # float32: share of training done before this step.


def run(config: config_lib.Config, workdir: Path) -> dict[str, float]:
  """Trains, or goes on where the newest good checkpoint stands.

  Args:
    config: the run.
    workdir: gets metrics.jsonl, timing.jsonl, config.json, checkpoints/,
      report/ and, if it is watched, watch.jsonl.

  Returns:
    The metrics of the last evaluation; empty if SIGTERM stopped the run, in
    which case it was saved first.

  Raises:
    errors.UserError: if the config makes no run, or the directory holds
      another one.
    FloatingPointError: if a metric is not finite any more.
  """
  # --- Devices ---------------------------------------------------------------
  mesh = sharding.of(config.mesh)
  eval_batch_size = config.eval_batch_size or config.batch_size
  sharding.check_batch("batch_size", config.batch_size, mesh)
  sharding.check_batch("eval_batch_size", eval_batch_size, mesh)
  first = jax.process_index() == 0
  process = (jax.process_index(), jax.process_count())
  everywhere = sharding.replicated(mesh)

  # --- Data ------------------------------------------------------------------
  source = build.dataset(config)
  batches = iter(
    source.train(config.batch_size, config.seed, *process, config.workers)
  )
  examples = source.eval(eval_batch_size, *process)

  # --- Model, task and optimizer, still abstract -----------------------------
  task = build.task(config)
  make = making.maker(
    config.model,
    config.rules,
    seed=config.seed,
    dtype=config.dtype,
    made_for=source,
  )
  model = nnx.eval_shape(make)
  optimizer = build.optimizer(config.optimizer, model)
  graphdef, params, rest = restore.split(model)
  teacher = restore.load_teacher(task, source, mesh, config.dtype)
  measures = metric_names(
    graphdef, (params, rest), task, teacher, source.features
  )
  names = sorted([*measures, "learning_rate"])  # as JAX orders a dict
  zeros = {name: (np.float32(0), np.float32(0)) for name in names}

  def create(key: jax.Array, values: Mapping[str, Any]) -> State:
    _, params, rest = restore.split(make(key, values))
    bad = jnp.full((len(names),), -1, jnp.int32)
    sums = jax.tree.map(jnp.asarray, zeros)
    return State(params, rest, optimizer.init(params), sums, bad)

  abstract = State(
    params,
    rest,
    jax.eval_shape(optimizer.init, params),
    *jax.eval_shape(lambda: create(jax.random.key(0), {})[3:]),
  )
  shardings = sharding.intended(abstract, mesh)

  # --- The compiled steps ----------------------------------------------------
  train_step = make_train_step(
    graphdef, task, optimizer, teacher, mesh, (shardings, everywhere)
  )
  eval_step = evaluation.make_step(graphdef, task, teacher, mesh)
  put = functools.partial(sharding.put, mesh)
  watcher = watching.Watcher(
    config.watch,
    model,
    lambda graph, tx, *args: _train_step(graph, task, tx, teacher, *args),
    optimizer,
    mesh,
  )

  # --- Checkpoint: go on, or begin -------------------------------------------
  bar = tqdm.tqdm(
    total=config.steps,
    unit="step",
    disable=not (first and sys.stderr.isatty()),
    dynamic_ncols=True,
  )
  say = functools.partial(_say, bar, first)
  workdir.mkdir(parents=True, exist_ok=True)
  checkpoints = checkpoint.Checkpoints(
    workdir / "checkpoints", config.keep, say
  )

  def groups(state: State) -> dict[str, Any]:
    return {
      "model": {"params": state.params, "rest": state.rest},
      "optimizer": state.opt_state,
      "loop": {"sums": state.sums, "bad": state.bad},
    }

  def targets(info: Mapping[str, Any]) -> dict[str, Any]:
    restore.check_same_run(config, info, workdir, say)
    start.check_vocabulary(info, source.name, source.tokenizer, workdir)
    return groups(restore.with_shardings(abstract, shardings))

  found = checkpoints.restore(targets)
  if found is None:
    step = 0
    # The key is an argument: seeds share one compiled program.
    key = put(jax.random.key(config.seed))
    written = nnx.eval_shape(make.float)
    values = start.load(config.start, written, model, source, say)
    state = jax.jit(create, out_shardings=shardings)(key, put(values))
    sharding.check(state, shardings, "after creation")
    if calibrate.is_due(model):
      see = functools.partial(calibrate.seen, graphdef, task, teacher)
      see = jax.jit(see, out_shardings=(shardings.params, shardings.rest))
      batch = put(calibrate.peek(batches), split=True)
      held = (state.params, state.rest)
      params, rest = see(held, batch, teacher.state, put(values))
      state = state._replace(params=params, rest=rest)
  else:
    info, saved = found
    step = int(info["step"])
    state = State(
      saved["model"]["params"],
      saved["model"]["rest"],
      saved["optimizer"],
      saved["loop"]["sums"],
      saved["loop"]["bad"],
    )
    sharding.check(state, shardings, f"after restoring step {step}")
    batches.set_state(info["data"])
    say(f"goes on after step {step} of {config.steps}")

  def check_bad() -> None:
    steps = jax.device_get(state.bad).tolist()
    bad = dict(zip(names, steps, strict=True))
    metrics.check_bad(bad, checkpoints.latest)

  def save() -> None:
    check_bad()
    info = {
      "config": config_lib.to_mapping(config),
      "data": batches.get_state(),
      "vocabulary": source.tokenizer().digest if source.tokenizer else "",
    }
    checkpoints.save(step, groups(state), info)

  # --- Where the numbers go --------------------------------------------------
  writers: list[metrics.Writer] = []
  timing = None
  if first:
    if step < config.steps:  # whoever looks for the page takes a run for over
      (workdir / "report" / "index.html").unlink(missing_ok=True)
    (workdir / "config.json").write_text(
      json.dumps(config_lib.to_mapping(config), indent=2) + "\n"
    )
    writers.append(metrics.JsonLines(workdir / "metrics.jsonl", step))
    timing = metrics.JsonLines(workdir / "timing.jsonl", step)
    watcher.open(workdir, step)
    if config.tensorboard:
      writers.append(metrics.TensorBoard(workdir / "tensorboard", step))

  def write(split: str, values: dict[str, float]) -> None:
    for writer in writers:
      writer.scalars(step, split, values)

  def evaluate_now() -> dict[str, float]:
    progress = put(schedules.progress_at(step, config.steps))
    sums = evaluation.run(
      eval_step, (state.params, state.rest), teacher, examples, progress, put
    )
    values = metrics.means(sums)
    metrics.check_finite("test", values, step)
    write("test", values)
    say(f"step {step}: test {_short(values)}")
    return values

  # --- The loop --------------------------------------------------------------
  bar.update(step)
  result: dict[str, float] = {}
  in_flight: collections.deque[jax.Array] = collections.deque()
  clock, clock_step = time.perf_counter(), step
  saved_at = step
  try:
    with interrupt.Interrupt() as stop:
      while step < config.steps and not stop.requested:
        # Nothing but what `put` names goes to the device, nothing comes back.
        with jax.transfer_guard("disallow"):
          batch = put(next(batches), split=True)
          progress = schedules.progress_at(step, config.steps)
          now = put(Now(np.int32(step + 1), progress))
          watcher.before(step + 1, state, batch, now, teacher.state)
          state, loss = train_step(state, batch, now, teacher.state)
        step += 1
        watcher.after(step)
        bar.update()
        in_flight.append(loss)
        if len(in_flight) > evaluation.AHEAD:
          in_flight.popleft().block_until_ready()
        last = step == config.steps

        if step % config.log_every == 0 or last:
          check_bad()
          values = metrics.means(jax.device_get(state.sums))
          values |= watcher.totals(step, config.log_every)
          state = state._replace(sums=put(zeros))
          write("train", values)
          bar.set_postfix_str(_short(values, 3))
          seconds = time.perf_counter() - clock
          if timing is not None:
            rate = (step - clock_step) / seconds
            speed = {"seconds": seconds, "steps_per_second": rate}
            timing.scalars(step, "train", speed)

        if last or (config.eval_every and step % config.eval_every == 0):
          result = evaluate_now()

        every = config.checkpoint_every
        if last or (every and step % every == 0):
          save()
          saved_at = step
        if step % config.log_every == 0:
          clock, clock_step = time.perf_counter(), step

      if step < config.steps:
        if saved_at != step:
          save()
        checkpoints.wait()
        say(
          f"stopped by SIGTERM and saved after step {step} of {config.steps};"
          " the same command goes on from there"
        )
        return {}
      if not result:  # was finished before
        result = _finished_before(workdir, step) or evaluate_now()
  finally:
    checkpoints.close()
    batches.close()
    watcher.close()
    for writer in [*writers, *([timing] if timing else [])]:
      writer.close()
    bar.close()

  # --- Report ----------------------------------------------------------------
  if first:
    page = write_report(config, workdir)
    print(f"report: {page}", file=sys.stderr)
  return result


# --- The step -----------------------------------------------------------------


def make_train_step(
  graphdef: Any,
  task: tasks.Task,
  optimizer: optimizers.Optimizer,
  teacher: restore.Teacher,
  mesh: Mesh | None = None,
  out_shardings: Any = None,
) -> Any:
  """A jitted (state, batch, now, teacher state) -> new state and loss."""
  step = functools.partial(_train_step, graphdef, task, optimizer, teacher)
  if mesh is not None:
    step = shards.within(mesh, step)
  return jax.jit(step, donate_argnums=0, out_shardings=out_shardings)


def _train_step(
  graphdef: Any,
  task: tasks.Task,
  optimizer: optimizers.Optimizer,
  teacher: restore.Teacher,
  state: State,
  batch: Mapping[str, jax.Array],
  now: Now,
  teacher_state: Any,
) -> tuple[State, jax.Array]:
  """One step: the new state and the loss."""
  rest = schedules.set_progress(state.rest, now.progress)

  def objective(params: nnx.State) -> tuple[jax.Array, Any]:
    # A copy: what is not differentiated would else belong to the outer trace
    # and could not be updated in this one.
    model = nnx.merge(graphdef, params, rest, copy=True)
    asked = teacher.model(teacher_state)
    loss, measured = task.loss(model, batch, asked, now.progress)
    return loss, (measured, restore.split(model)[2])

  grad = jax.value_and_grad(objective, has_aux=True)
  (loss, (measured, rest)), grads = grad(state.params)
  params, opt_state, rate = optimizer.update(
    grads, state.opt_state, state.params, now.progress
  )
  measured["learning_rate"] = (rate, jnp.ones((), jnp.float32))
  sums = {
    name: (total + measured[name][0], count + measured[name][1])
    for name, (total, count) in state.sums.items()
  }
  fine = jnp.stack([jnp.isfinite(measured[name][0]) for name in state.sums])
  bad = jnp.where((state.bad < 0) & ~fine, now.step, state.bad)
  return State(params, rest, opt_state, sums, bad), loss


def metric_names(
  graphdef: Any,
  model: Any,
  task: tasks.Task,
  teacher: restore.Teacher,
  features: Mapping[str, data.Feature],
) -> list[str]:
  """What the task will measure, found by an abstract call."""
  batch = making.batch_of(features, 1)

  def measure(state: Any, teacher_state: Any, batch: Any) -> tasks.Metrics:
    asked = teacher.model(teacher_state)
    return task.loss(nnx.merge(graphdef, *state), batch, asked, 0.0)[1]

  return sorted(jax.eval_shape(measure, model, teacher.state, batch))


# --- Small parts --------------------------------------------------------------


def _say(bar: Any, first: bool, line: str) -> None:
  if first:
    bar.write(line, file=sys.stderr)


def _short(values: Mapping[str, float], most: int = 9) -> str:
  parts = [f"{name} {value:.4g}" for name, value in values.items()]
  return ", ".join(parts[:most])


def _finished_before(workdir: Path, step: int) -> dict[str, float]:
  """The evaluation of the last step that metrics.jsonl has already."""
  path = workdir / "metrics.jsonl"
  lines = path.read_text().splitlines() if path.exists() else []
  for record in map(json.loads, reversed(lines)):
    if record.pop("step") == step and record.pop("split") == "test":
      return record
  return {}


def write_report(config: config_lib.Config, workdir: Path) -> Path:
  """Writes `report/cost.json`, then the page: the last file of a finished run.

  Each is whole or absent.
  """
  from jbin import report

  folder = workdir / "report"
  drafts = folder / "drafts"
  drafts.mkdir(parents=True, exist_ok=True)
  cost = json.dumps(counting.cost_report(config).to_json(), indent=2)
  draft = drafts / "cost.json"
  draft.write_text(cost + "\n")
  os.replace(draft, folder / "cost.json")
  page = folder / "index.html"
  os.replace(report.write([workdir], drafts), page)
  drafts.rmdir()
  return page
