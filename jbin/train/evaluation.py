"""Evaluation: one compiled step over every example exactly once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh

from jbin import data, schedules, tasks, views
from jbin.train import (
  build,
  config as config_lib,
  making,
  metrics,
  program,
  restore,
  sharding,
  start,
  step as step_lib,
)

# How many steps the host may be ahead of the device.
AHEAD = 2


def evaluate(config: config_lib.Config, workdir: Path) -> dict[str, Any]:
  """The metrics of the newest good checkpoint on the evaluation split.

  Returns:
    "step", "split" and the metrics.

  Raises:
    errors.UserError: if there is no checkpoint, or it is of another model (also
      one with the same arrays, such as another bound).
  """
  mesh = sharding.of(config.mesh)
  batch_size = config.eval_batch_size or config.batch_size
  sharding.check_batch("eval_batch_size", batch_size, mesh)
  source = build.dataset(config)
  make = making.maker(
    config.model, config.rules, dtype=config.dtype, made_for=source
  )
  info, _, model = restore.restore_model(make, workdir, mesh)
  restore.check_same_model(config, info, workdir)
  start.check_vocabulary(info, source.name, source.tokenizer, workdir)
  teacher = restore.load_teacher(build.task(config), source, mesh, config.dtype)
  put = functools.partial(sharding.put, mesh)
  sums = run(
    make_step(program.of(config, source, teacher).on(mesh), mesh),
    model,
    teacher,
    source.eval(batch_size, *sharding.share(mesh, batch_size)),
    put(schedules.progress_at(info["step"], info["config"]["steps"])),
    put,
  )
  return {"step": info["step"], "split": "test", **metrics.means(sums)}


def make_step(train: step_lib.Step, mesh: Mesh) -> Callable[..., tasks.Metrics]:
  """A compiled (model state, teacher state, batch, progress) -> sums.

  Args:
    train: a step of training, for its model, task and teacher.
    mesh: of the devices.
  """

  def eval_step(
    state: Any, teacher_state: Any, batch: Any, progress: Any
  ) -> tasks.Metrics:
    model = views.evaluation(nnx.merge(train.graphdef, *state))
    asked = train.teacher.model(teacher_state)
    return train.task.loss(model, batch, asked, progress)[1]

  return jax.jit(
    train.within(eval_step), out_shardings=sharding.replicated(mesh)
  )


def run(
  eval_step: Callable[..., tasks.Metrics],
  state: Any,
  teacher: restore.Teacher,
  examples: Iterable[data.Batch],
  progress: jax.Array,
  put: Callable[..., Any],
) -> dict[str, tuple[float, float]]:
  """(sum, count) of each metric over one pass; see `tasks.merge`.

  Padding has weight 0, so the figures are of each example exactly once.
  """
  pending = []
  for batch in examples:
    with jax.transfer_guard("disallow"):
      batch = put(batch, split=True)
      pending.append(eval_step(state, teacher.state, batch, progress))
    if len(pending) > AHEAD:
      jax.block_until_ready(pending[-1 - AHEAD])
  return tasks.merge(jax.device_get(pending))
