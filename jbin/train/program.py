"""The step that a config trains with, as a program without arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from jbin import cost, optimizers, tasks, views
from jbin.train import (
  build,
  config as config_lib,
  loop,
  making,
  restore,
  sharding,
)

# Positions in the arguments of `Program.whole`.
_STATES = (1, 2, 3, 5)
_DONATED = (0, 1, 2, 3)
_PREFIXES = {0: "", 1: "optimizer", 6: "teacher"}


class _Update(NamedTuple):
  """An optimizer whose equations say that they are the update."""

  optimizer: optimizers.Optimizer

  def update(self, *args: Any) -> Any:
    with jax.named_scope(cost.UPDATE):
      return self.optimizer.update(*args)


@dataclasses.dataclass(frozen=True)
class Program:
  """A config's training step; `of` makes it.

  Attributes:
    model: the model, abstract.
    teacher_model: that of the task, abstract; None for most tasks.
    task: the task.
    optimizer: the optimizer.
    state: what changes from step to step, abstract.
    batch: a batch of the config's size, abstract.
    notes: what the reader of its cost has to know.
  """

  model: nnx.Module
  teacher_model: nnx.Module | None
  task: tasks.Task
  optimizer: optimizers.Optimizer
  state: loop.State
  batch: dict[str, jax.ShapeDtypeStruct]
  notes: tuple[str, ...] = ()

  @property
  def now(self) -> loop.Now:
    """What the host tells the step, abstract."""
    return loop.Now(_scalar(jnp.int32), _scalar(jnp.float32))

  @property
  def teacher(self) -> restore.Teacher:
    """The teacher as the loop has it, abstract."""
    return _teacher(self.teacher_model)

  def report(self, name: str) -> cost.Report:
    """What one step costs."""
    graphdef, *_ = restore.split(self.model)
    step = loop.make_train_step(
      graphdef, self.task, cast(Any, _Update(self.optimizer)), self.teacher
    )

    def whole(
      model: nnx.Module,
      opt_state: Any,
      sums: Any,
      bad: Any,
      batch: Any,
      now: Any,
      teacher_model: nnx.Module | None,
    ) -> Any:
      _, params, rest = restore.split(model)
      state = loop.State(params, rest, opt_state, sums, bad)
      asked = restore.split(teacher_model)[1:] if teacher_model else ()
      return step(state, batch, now, asked)

    found = cost.training(
      whole,
      self.model,
      *self.state[2:],
      self.batch,
      self.now,
      self.teacher_model,
      name=name,
      states=_STATES,
      donate=_DONATED,
      prefixes=_PREFIXES,
    )
    return dataclasses.replace(found, notes=[*self.notes, *found.notes])

  def compile(self, mesh: Mesh) -> Any:
    """The step compiled for the devices of a mesh, as the loop compiles it."""
    graphdef, *_ = restore.split(self.model)
    shardings = sharding.intended(self.state, mesh)
    teacher = self.teacher
    step = loop.make_train_step(
      graphdef,
      self.task,
      self.optimizer,
      teacher,
      mesh,
      (shardings, sharding.replicated(mesh)),
    )

    def lie(tree: Any, where: Any) -> Any:
      shardings = jax.tree.map(lambda _: where, tree)
      return restore.with_shardings(tree, shardings)

    intended = sharding.intended(teacher.state, mesh)
    return step.lower(
      restore.with_shardings(self.state, shardings),
      lie(self.batch, sharding.batch(mesh)),
      lie(self.now, sharding.replicated(mesh)),
      restore.with_shardings(teacher.state, intended),
    ).compile()


def of(config: config_lib.Config) -> Program:
  """The training step of a config; nothing is allocated.

  Raises:
    errors.UserError: if the config makes no run.
  """
  model, _ = build.abstract_model(config)
  made_for = build.sizes(config)
  task = build.task(config)
  optimizer = build.optimizer(config.optimizer, model)
  teacher_model, notes = None, ()
  if task.teacher is not None:
    make, notes = _teacher_maker(config, task.teacher, made_for)
    teacher_model = views.evaluation(nnx.eval_shape(make))
  graphdef, params, rest = restore.split(model)
  teacher = _teacher(teacher_model)
  features = made_for.features
  measures = loop.metric_names(
    graphdef, (params, rest), task, teacher, features
  )
  names = sorted([*measures, "learning_rate"])
  zero = _scalar(jnp.float32)
  state = loop.State(
    params,
    rest,
    jax.eval_shape(optimizer.init, params),
    cast(Any, dict.fromkeys(names, (zero, zero))),
    cast(Any, jax.ShapeDtypeStruct((len(names),), jnp.int32)),
  )
  batch = making.batch_of(features, config.batch_size)
  return Program(model, teacher_model, task, optimizer, state, batch, notes)


def _teacher_maker(
  config: config_lib.Config,
  teacher: tasks.TeacherSource,
  made_for: making.Sizes,
) -> tuple[Callable[[], nnx.Module], tuple[str, ...]]:
  """Makes the task's teacher; if its run is not there, the model before rules.

  The second is what a report has to say of that.
  """
  run = Path(teacher.workdir)
  if teacher.weights or (run / "config.json").is_file():
    return restore.teacher_maker(teacher, made_for, config.dtype), ()
  named = config.model
  if teacher.model:
    named = config_lib.named(teacher.model, "task.teacher")
  make = making.maker(named, dtype=config.dtype, made_for=made_for)
  note = f"the teacher's run {run} is not here: counted as {named.name}, float"
  return make, (note,)


def _teacher(model: nnx.Module | None) -> restore.Teacher:
  if model is None:
    return restore.Teacher(None, ())
  graphdef, *state = restore.split(model)
  return restore.Teacher(graphdef, tuple(state))


def _scalar(dtype: Any) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct((), dtype)
