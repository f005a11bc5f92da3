"""The training loop, top to bottom.

config -> mesh -> data -> program, abstract, then compiled -> model and
optimizer, created sharded, or restored -> steps -> evaluation -> checkpoint ->
metrics -> report. `run` is the whole way, and stopping it at any step and
calling it again goes on bit for bit.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
import tqdm
from flax import nnx

from jbin import errors, schedules
from jbin.train import (
  alike,
  build,
  caching,
  calibrate,
  checkpoint,
  config as config_lib,
  counting,
  diagnose,
  evaluation,
  header,
  interrupt,
  lock,
  metrics,
  processes,
  profiling,
  program as program_lib,
  restore,
  sharding,
  speed,
  start,
  step as step_lib,
  watching,
)


def run(config: config_lib.Config, workdir: Path) -> dict[str, float]:
  """Trains, or goes on where the newest good checkpoint stands.

  Args:
    config: the run.
    workdir: gets config.json, run.jsonl (a line about each start),
      metrics.jsonl, timing.jsonl, checkpoints/, report/; of a mesh,
      sharding.txt; if it is watched, watch.jsonl; of a profile, profile/.

  Returns:
    The metrics of the last evaluation; empty if SIGTERM stopped the run, in
    which case it was saved first.

  Raises:
    errors.UserError: if the config makes no run, or the directory holds
      another one.
    FloatingPointError: if a step is not finite, and the guard lets none be
      left out, or no more.
  """
  with contextlib.ExitStack() as closing:
    stop = closing.enter_context(interrupt.Interrupt())
    result = _train(config, workdir, stop, closing)
  if result and processes.first():
    page = write_report(config, workdir)
    print(f"report: {page}", file=sys.stderr)
  return result


def _train(
  config: config_lib.Config,
  workdir: Path,
  stop: interrupt.Interrupt,
  closing: contextlib.ExitStack,
) -> dict[str, float]:
  """`run` but for the report; what it opens `closing` closes."""
  build.check(config)
  not_kept = caching.keep(config.compile_cache)
  alike.check_same(config_lib.to_mapping(config))

  # --- Devices ---------------------------------------------------------------
  mesh = sharding.of(config.mesh)
  eval_batch_size = config.eval_batch_size or config.batch_size
  sharding.check_batch("batch_size", config.batch_size, mesh, config.accumulate)
  sharding.check_batch("eval_batch_size", eval_batch_size, mesh)
  first = processes.first()
  put = functools.partial(sharding.put, mesh)

  # --- Data ------------------------------------------------------------------
  source = build.dataset(config)
  share = sharding.share(mesh, config.batch_size)
  batches = iter(
    source.train(config.batch_size, config.seed, *share, config.workers)
  )
  examples = source.eval(
    eval_batch_size, *sharding.share(mesh, eval_batch_size)
  )

  # --- Model, task and optimizer, still abstract -----------------------------
  teacher = restore.load_teacher(build.task(config), source, mesh, config.dtype)
  program = program_lib.of(config, source, teacher)
  names, abstract = program.names, program.state
  shardings = program.shardings(mesh)
  pure = program.on(mesh)
  eval_step = evaluation.make_step(pure, mesh)
  watcher = watching.Watcher(config.watch, program.model, pure, mesh)

  # --- Checkpoint: go on, or begin -------------------------------------------
  bar = tqdm.tqdm(
    total=config.steps,
    unit="step",
    disable=not (first and sys.stderr.isatty()),
    dynamic_ncols=True,
  )
  say = functools.partial(_say, bar, first)
  workdir.mkdir(parents=True, exist_ok=True)
  alike.check_shared(workdir)
  if not_kept:
    say(not_kept)
  if first:
    closing.enter_context(lock.held(workdir, say))
  checkpoints = checkpoint.Checkpoints(
    workdir / "checkpoints", config.keep, say
  )

  def targets(info: Mapping[str, Any]) -> dict[str, Any]:
    restore.check_same_run(config, info, workdir, say)
    start.check_vocabulary(info, source.name, source.tokenizer, workdir)
    state = restore.with_shardings(abstract, shardings)
    wanted = _groups(state)
    if info["format"] == 1:  # has no guard, and does not measure the gradient
      bad = jax.ShapeDtypeStruct(
        (len(names) - 1,), np.int32, sharding=sharding.replicated(mesh)
      )
      sums = {k: v for k, v in state.sums.items() if k != "gradient_norm"}
      wanted["loop"] = {"sums": sums, "bad": bad}
    return wanted

  found = checkpoints.restore(targets)
  step = 0
  # The key is an argument: seeds share one compiled program.
  key = put(jax.random.key(config.seed))
  create = jax.jit(program.create, out_shardings=shardings)
  if found is None:
    written = nnx.eval_shape(program.make.float)
    values = start.load(config.start, written, program.model, source, say)
    state = create(key, put(values))
    sharding.check(state, shardings, "after creation")
    if calibrate.is_due(program.model):
      see = functools.partial(
        calibrate.seen, pure.graphdef, pure.task, pure.teacher
      )
      see = jax.jit(see, out_shardings=(shardings.params, shardings.rest))
      batch = put(calibrate.first(batches), split=True)
      held = (state.params, state.rest)
      params, rest = see(held, batch, teacher.state, put(values))
      ema = pure.copied(params)
      state = state._replace(params=params, rest=rest, ema=ema)
  else:
    info, saved = found
    step = int(info["step"])
    fresh, running = (
      put((step_lib.empty(names), step_lib.well())),
      saved["loop"],
    )
    state = step_lib.State(
      saved["model"]["params"],
      saved["model"]["rest"],
      saved["optimizer"],
      saved.get("ema", ()),
      fresh[0] | running["sums"],
      running.get("health", fresh[1]),
    )
    sharding.check(state, shardings, f"after restoring step {step}")
    batches.set_state(info["data"])
    say(f"goes on after step {step} of {config.steps}")

  # --- The compiled step -----------------------------------------------------
  begin = time.perf_counter()
  due = step < config.steps
  train_step = cast(Any, program.compile(mesh) if due else None)
  compiling = time.perf_counter() - begin
  # Between steps the state is its arrays alone; see `Program.compile`.
  arrays, asked = program.flat(state), tuple(jax.tree.leaves(teacher.state))
  del state

  def check_health() -> dict[str, float]:
    """Raises if the guard ended the run; what it left out, for the metrics."""
    state = program.whole(arrays)
    bad, skipped = map(int, jax.device_get(state.health[:2]))
    if bad < 0:
      return {"skipped": skipped} if config.guard.skip else {}
    # The state is that from before the step, whose batch can be had again.
    at = batches.get_state() | {"step": bad - 1}
    if (checkpoints.latest or 0) < bad - 1:
      bad_now, left_out = put((np.int32(-1), np.int32(skipped - 1)))
      health = state.health._replace(bad=bad_now, skipped=left_out)
      save(state._replace(health=health), bad - 1, at)
    batches.set_state(at)
    batch = put(next(batches), split=True)
    progress = schedules.progress_at(bad - 1, config.steps)
    objective = pure.objective_at(state, progress, teacher.state)
    limit, mean = config.guard.spike, float(state.health.norm)
    why = diagnose.why(objective, state.params, batch, spike=limit, norm=mean)
    raise metrics.not_finite(why, bad, skipped, checkpoints.latest)

  def save(
    state: step_lib.State, at_step: int, data: Mapping[str, Any]
  ) -> None:
    info = {
      "config": config_lib.to_mapping(config),
      "data": data,
      "vocabulary": source.tokenizer().digest if source.tokenizer else "",
    }
    checkpoints.save(at_step, _groups(state), info)

  def save_now() -> None:
    check_health()
    save(program.whole(arrays), step, batches.get_state())

  # --- Where the numbers go --------------------------------------------------
  writers: list[metrics.Writer] = []
  timing = None
  clock = speed.Speed(examples=config.batch_size, step=step)
  traced = (config.profile.first, config.profile.last) if first else (0, 0)
  trace = profiling.Trace(*traced, workdir / "profile")
  if first:
    if due:  # whoever looks for the page takes a run for over
      (workdir / "report" / "index.html").unlink(missing_ok=True)
    written = {
      "config.json": json.dumps(config_lib.to_mapping(config), indent=2)
    }
    if mesh.size > 1:
      written["sharding.txt"] = sharding.table(abstract, shardings)
    for name, text in written.items():
      with errors.about(workdir / name):
        (workdir / name).write_text(text + "\n")
    if due:
      about = header.describe(
        program, mesh, train_step, seconds=compiling, step=step
      )
      with errors.about(workdir / "run.jsonl"):
        header.append(workdir / "run.jsonl", about)
      say(header.text(about))
      clock = speed.of(program, mesh, about["cost"]["model_flops"], step)
    writers.append(metrics.JsonLines(workdir / "metrics.jsonl", step))
    timing = metrics.JsonLines(workdir / "timing.jsonl", step)
    watcher.open(workdir, step)
    if config.tensorboard:
      writers.append(metrics.TensorBoard(workdir / "tensorboard", step))

  def write(split: str, values: dict[str, float]) -> None:
    for writer in writers:
      writer.scalars(step, split, values)

  def evaluate_now() -> dict[str, float]:
    check_health()
    progress = put(schedules.progress_at(step, config.steps))
    model = program.whole(arrays).model
    sums = evaluation.run(eval_step, model, teacher, examples, progress, put)
    values = metrics.means(sums)
    metrics.check_finite(values, step, checkpoints.latest, examples)
    write("test", values)
    say(f"step {step}: test {_short(values)}")
    return values

  # --- The loop --------------------------------------------------------------
  bar.update(step)
  result: dict[str, float] = {}
  in_flight: collections.deque[step_lib.Seen] = collections.deque()
  told = [sharding.stops(mesh, flag) for flag in (False, True)]
  stopped = False
  saved_at = step
  # Closed from the last to the first: a save that fails leaves nothing open.
  closing.push(functools.partial(_close, checkpoints, say))
  for each in (bar, *writers, *([timing] if timing else [])):
    closing.callback(each.close)
  for each in (trace, watcher, batches):
    closing.callback(each.close)

  def is_due(every: int) -> bool:
    return step == config.steps or (every > 0 and step % every == 0)

  # A run that was killed between a save and the evaluation of that step.
  if step and is_due(config.eval_every):
    result = processes.agree(_evaluation_of(workdir, step)) or evaluate_now()
  # One of several processes learns from the device that they are to stop: all
  # of them after the same step.
  alone = jax.process_count() == 1
  stopped = alone and stop.requested
  while step < config.steps and not stopped:
    # Nothing but what `put` names goes to the device, nothing comes back.
    with jax.transfer_guard("disallow"):
      with clock.waiting("data"):
        batch = next(batches)
      batch = put(batch, split=True)
      now = _now(step, config.steps, put, told[stop.requested])
      if watcher.is_due(step + 1):
        watcher.look(program.whole(arrays), batch, now, teacher.state)
      trace.before(step + 1)
      arrays, seen = train_step(arrays, batch, now, asked)
    step += 1
    trace.after(step, seen)
    watcher.after(step)
    bar.update()
    in_flight.append(seen)
    if len(in_flight) > evaluation.AHEAD:
      with clock.waiting("device"):
        stopped = bool(jax.device_get(in_flight.popleft().stop))
    stopped = stopped or (alone and stop.requested)

    if is_due(config.log_every):
      with clock.waiting("device"):
        values = check_health()
        state = program.whole(arrays)
        values = metrics.means(jax.device_get(state.sums)) | values
      values |= watcher.totals(step, config.log_every)
      state = state._replace(sums=put(step_lib.empty(names)))
      arrays = program.flat(state)
      write("train", values)
      bar.set_postfix_str(_short(values, 3))
      if timing is not None:
        timing.scalars(step, "train", clock.take(step))

    # Before the evaluation, which may be long, or fail.
    if is_due(config.checkpoint_every):
      with clock.aside():
        save_now()
      saved_at = step

    if is_due(config.eval_every):
      with clock.aside():
        result = evaluate_now()

  if step < config.steps:
    if saved_at != step:
      save_now()
    checkpoints.wait()
    done = f"and saved after step {step}" if step else "before the first step"
    say(
      f"stopped by SIGTERM {done} of {config.steps}; the same command goes on"
      " from there"
    )
    return {}
  return result


# --- Small parts --------------------------------------------------------------


def _say(bar: Any, first: bool, line: str) -> None:
  if first:
    bar.write(line, file=sys.stderr)


def _close(
  checkpoints: checkpoint.Checkpoints,
  say: Callable[[str], None],
  kind: Any,
  error: BaseException | None,
  trace: Any,
) -> None:
  """As the end of a `with`; an error that is on its way is not lost."""
  del kind, trace
  try:
    checkpoints.close()
  except errors.RunFailed as failed:
    if error is None:
      raise
    say(str(failed))


def _groups(state: step_lib.State) -> dict[str, Any]:
  """What a checkpoint holds, by name."""
  averages = {"ema": state.ema} if state.ema else {}
  return {
    "model": {"params": state.params, "rest": state.rest},
    "optimizer": state.opt_state,
    "loop": {"sums": state.sums, "health": state.health},
    **averages,
  }


def _now(step: int, steps: int, put: Any, told: jax.Array) -> step_lib.Now:
  """What the device is told before the step that follows `step`."""
  progress = schedules.progress_at(step, steps)
  number, progress = put((np.int32(step + 1), progress))
  return step_lib.Now(number, progress, told)


def _short(values: Mapping[str, float], most: int = 9) -> str:
  parts = [f"{name} {value:.4g}" for name, value in values.items()]
  return ", ".join(parts[:most])


def _evaluation_of(workdir: Path, step: int) -> dict[str, float]:
  """The evaluation of a step that metrics.jsonl has already, or nothing."""
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
