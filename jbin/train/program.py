"""What a config trains, as programs without arrays: the loop runs them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from jbin import cost, data, errors, optimizers, shards, tasks, views
from jbin.train import (
  build,
  calling,
  config as config_lib,
  making,
  restore,
  sharding,
  step as step_lib,
)

# Positions in the arguments of `Program.whole`.
_STATES = (1, 2, 4)
_DONATED = (0, 1, 2)
_PREFIXES = {0: "", 1: "optimizer", 5: "teacher"}
# What every step measures beside the task.
_ALWAYS = ("learning_rate", "gradient_norm")


class _Update(NamedTuple):
  """An optimizer whose equations say that they are the update."""

  optimizer: optimizers.Optimizer

  def init(self, params: Any) -> Any:
    return self.optimizer.init(params)

  def update(self, *args: Any) -> Any:
    with jax.named_scope(cost.UPDATE):
      return self.optimizer.update(*args)


@dataclasses.dataclass(frozen=True)
class Program:
  """A config's training step; `of` makes it.

  Attributes:
    config: the run.
    make: makes the model.
    model: the model, abstract.
    teacher_model: that of the task, abstract; None for most tasks.
    step: one training step; it says what the task and the optimizer are.
    names: of the metrics, in the order of `State.sums`.
    state: what changes from step to step, abstract.
    batch: a batch of the config's size, abstract.
    notes: what the reader of its cost has to know.
  """

  config: config_lib.Config
  make: making.Maker
  model: nnx.Module
  teacher_model: nnx.Module | None
  step: step_lib.Step
  names: list[str]
  state: step_lib.State
  batch: dict[str, jax.ShapeDtypeStruct]
  notes: tuple[str, ...] = ()

  def now(self, devices: int = 1) -> step_lib.Now:
    """What the host tells the step, abstract."""
    stop = jax.ShapeDtypeStruct((devices,), jnp.int32)
    return step_lib.Now(_scalar(jnp.int32), _scalar(jnp.float32), stop)

  def create(self, key: jax.Array, values: Mapping[str, Any]) -> step_lib.State:
    """The state at step 0.

    Args:
      key: of the model's random numbers.
      values: what parameters start from, by path.
    """
    _, params, rest = restore.split(self.make(key, values))
    return self.step.start(params, rest, self.names)

  def shardings(self, mesh: Mesh) -> step_lib.State:
    """Where each array of the state is to lie."""
    return sharding.intended(self.state, mesh)

  def on(self, mesh: Mesh) -> step_lib.Step:
    """The step, traced for the devices of a mesh."""
    keep: Any = self.config.residuals
    gather: Any = self.config.mesh.gather
    within = step_lib.within(mesh, keep, gather)
    return dataclasses.replace(self.step, within=within)

  def report(self, name: str) -> cost.Report:
    """What one step costs."""
    update: Any = _Update(self.step.optimizer)
    step = dataclasses.replace(self.step, optimizer=update)

    def whole(
      model: nnx.Module,
      opt_state: Any,
      rest_of_state: Any,
      batch: Any,
      now: Any,
      teacher_model: nnx.Module | None,
    ) -> Any:
      _, params, rest = restore.split(model)
      state = step_lib.State(params, rest, opt_state, *rest_of_state)
      asked = restore.split(teacher_model)[1:] if teacher_model else ()
      return step(state, batch, now, asked)

    found = cost.training(
      whole,
      self.model,
      self.state.opt_state,
      tuple(self.state[3:]),
      self.batch,
      self.now(),
      self.teacher_model,
      name=name,
      states=_STATES,
      donate=_DONATED,
      prefixes=_PREFIXES,
    )
    return dataclasses.replace(found, notes=[*self.notes, *found.notes])

  def flat(self, state: step_lib.State) -> tuple[jax.Array, ...]:
    """The arrays of a state, as the compiled step takes and gives them."""
    return tuple(jax.tree.leaves(state))

  def whole(self, arrays: tuple[jax.Array, ...]) -> step_lib.State:
    """The state of such arrays."""
    return jax.tree.unflatten(jax.tree.structure(self.state), arrays)

  def _check_tokens(self, mesh: Mesh) -> None:
    parts, tokens = mesh.shape[shards.TOKENS], self.batch.get("tokens")
    if tokens is not None and tokens.shape[1] % parts:
      raise errors.UserError(
        f"config key 'mesh.sequence' is {parts}, which does not divide texts of"
        f" {tokens.shape[1]} tokens; choose a divisor, or another length"
      )

  def compile(self, mesh: Mesh) -> Any:
    """The step compiled for the devices of a mesh, as the loop runs it.

    Returns:
      JAX's compiled (arrays, batch, now, teacher's arrays) -> (arrays, `Seen`),
      which donates the first. A call with trees of variables, in place of
      their arrays alone, takes JAX ten times as long.

    Raises:
      errors.UserError: if the mesh's `sequence` does not divide the texts.
    """
    self._check_tokens(mesh)
    step, teacher = self.on(mesh), self.step.teacher.state
    outline = jax.tree.structure(teacher)

    def run(arrays: Any, batch: Any, now: Any, asked: Any) -> Any:
      asked = jax.tree.unflatten(outline, asked)
      state, seen = step(self.whole(arrays), batch, now, asked)
      return self.flat(state), seen

    def lie(tree: Any, where: Any) -> Any:
      shardings = jax.tree.map(lambda _: where, tree)
      return restore.with_shardings(tree, shardings)

    def arrays(tree: Any) -> tuple[Any, ...]:
      shardings = sharding.intended(tree, mesh)
      return tuple(jax.tree.leaves(restore.with_shardings(tree, shardings)))

    everywhere = sharding.replicated(mesh)
    now = lie(self.now(mesh.size), everywhere)
    stop = lie(now.stop, sharding.each_device(mesh))
    outs = tuple(jax.tree.leaves(self.shardings(mesh)))
    jitted = jax.jit(
      step.within(run), donate_argnums=0, out_shardings=(outs, everywhere)
    )
    return jitted.lower(
      arrays(self.state),
      lie(self.batch, sharding.batch(mesh)),
      now._replace(stop=stop),
      arrays(teacher),
    ).compile()


def of(
  config: config_lib.Config,
  source: data.Dataset | None = None,
  teacher: restore.Teacher | None = None,
) -> Program:
  """The training step of a config; nothing is allocated.

  Args:
    config: the run.
    source: its data; None: the sizes that the config says, as far as it does.
    teacher: its task's, restored; None: as the config says, abstract.

  Raises:
    errors.UserError: if the config makes no run.
  """
  made_for = build.sizes(config) if source is None else source
  make = making.maker(
    config.model,
    config.rules,
    seed=config.seed,
    dtype=config.dtype,
    made_for=made_for,
  )
  model = making.abstract(make)
  task = build.task(config)
  teacher_model, notes = None, ()
  if teacher is not None:
    teacher_model = _model_of(teacher)
  elif task.teacher is not None:
    make_teacher, notes = _teacher_maker(config, task.teacher, made_for)
    teacher_model = views.evaluation(nnx.eval_shape(make_teacher))
  _check_sequence(config, model)
  graphdef, params, rest = restore.split(model)
  step = step_lib.Step(
    graphdef,
    task,
    build.optimizer(config.optimizer, model),
    _teacher(teacher_model),
    config.accumulate,
    build.hyper(config.ema, "ema", 1),
    config.guard.skip,
    config.guard.spike,
  )
  batch = making.batch_of(made_for.features, config.batch_size)
  said = {"length": config.length, "image_size": config.image_size}
  said = {key: size for key, size in said.items() if size}
  for named in (config.model, config.rules, config.task):
    said |= named.kwargs
  with calling.follows(
    f"model '{config.model.name}' and task '{config.task.name}' cannot be"
    " called",
    said,
  ):
    names = _metric_names(step, (params, rest), made_for.features)
  state = jax.eval_shape(lambda p, r: step.start(p, r, names), params, rest)
  return Program(
    config, make, model, teacher_model, step, names, state, batch, notes
  )


def _check_sequence(config: config_lib.Config, model: nnx.Module) -> None:
  """Raises where devices along `sequence` would all compute the same."""
  if config.mesh.sequence == 1:
    return
  if not getattr(model, "splits_tokens", False):
    raise errors.UserError(
      f"config key 'mesh.sequence' is {config.mesh.sequence}, and model"
      f" '{config.model.name}' does not split its tokens; set it to 1, or take"
      " 'llama', 'opt' or 'bert'"
    )


def _metric_names(
  step: step_lib.Step, model: Any, features: Mapping[str, data.Feature]
) -> list[str]:
  """What a step measures, found by an abstract call, as JAX orders a dict.

  Raises:
    errors.UserError: if the task has no loss among it.
  """

  def measure(params: Any, rest: Any, batch: Any, teacher_state: Any) -> Any:
    return step.objective(
      params, rest, batch, teacher_state=teacher_state, progress=0.0
    )[1][0]

  batch = making.batch_of(features, 1)
  found = jax.eval_shape(measure, *model, batch, step.teacher.state)
  if "loss" not in found:
    raise errors.UserError(
      f"task {type(step.task).__name__} measures {', '.join(found)}; it must"
      " measure 'loss' too, by which the parts of a batch are weighed"
    )
  return sorted([*found, *_ALWAYS])


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


def _model_of(teacher: restore.Teacher) -> nnx.Module | None:
  """A restored teacher, abstract."""
  if teacher.graphdef is None:
    return None
  state = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), teacher.state
  )
  return nnx.merge(teacher.graphdef, *state)


def _scalar(dtype: Any) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct((), dtype)
