"""What an earlier run left: its model, a teacher, and whether to go on."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from flax import nnx
from jax.sharding import Mesh

from jbin import data, errors, tasks, views
from jbin.train import (
  checkpoint,
  config as config_lib,
  making,
  sharding,
  start,
)


class Teacher(NamedTuple):
  """A trained model that a task asks; empty for most tasks."""

  graphdef: Any
  state: Any

  def model(self, state: Any) -> tasks.Model | None:
    """The callable, from its state as the compiled step sees it."""
    return nnx.merge(self.graphdef, *state) if self.graphdef else None


def split(model: nnx.Module) -> tuple[Any, nnx.State, nnx.State]:
  """The static part, what is learned by gradient, and all other variables."""
  graphdef, params, rest = nnx.split(model, nnx.Param, ...)
  return graphdef, params, rest


def load_teacher(
  task: tasks.Task, source: data.Dataset, mesh: Mesh, dtype: str
) -> Teacher:
  """The task's teacher, from its workdir or pretrained; empty if it has none.

  Args:
    task: says where it comes from.
    source: the data.
    mesh: of the devices.
    dtype: of the computation of a pretrained one.

  Raises:
    errors.UserError: if there is no such run, it has no checkpoint, or there
      are no such weights.
  """
  if task.teacher is None:
    return Teacher(None, ())
  make = teacher_maker(task.teacher, source, dtype)
  if task.teacher.weights:
    graphdef, *state = _pretrained(make, task.teacher.weights, mesh)
  else:
    workdir = Path(task.teacher.workdir)
    info, graphdef, state = restore_model(make, workdir, mesh)
    start.check_vocabulary(info, source.name, source.tokenizer, workdir)
  viewed = views.evaluation(nnx.merge(graphdef, *state))
  graphdef, *rest = split(viewed)
  return Teacher(graphdef, tuple(rest))


def _pretrained(
  make: Callable[[], nnx.Module], weights: str, mesh: Mesh
) -> tuple[Any, nnx.State, nnx.State]:
  """A model with its weights; each lies where it is to, and nowhere else."""
  from jbin import pretrained

  graphdef, params, rest = split(nnx.eval_shape(make))
  params = with_shardings(params, sharding.intended(params, mesh))
  model = nnx.merge(graphdef, params, rest)
  pretrained.restore(model, weights)
  where = sharding.intended(rest, mesh)
  nnx.update(model, jax.jit(lambda: split(make())[2], out_shardings=where)())
  return split(model)


def teacher_maker(
  teacher: tasks.TeacherSource,
  made_for: making.Sizes | None,
  dtype: str,
) -> Callable[[], nnx.Module]:
  """Makes a task's teacher, before anything is restored.

  A pretrained one, which nothing changes, has kernels and tables of that
  dtype, to which its layers would turn them anyway.

  Args:
    teacher: where it comes from.
    made_for: the data, or the sizes of the student's config.
    dtype: of the computation of a pretrained one; a run has its own.

  Raises:
    errors.UserError: if there is no such run.
  """
  if teacher.weights:
    model = config_lib.named(teacher.model, "task.teacher")
    make = making.maker(model, dtype=dtype, made_for=made_for)
    return lambda: _frozen(make(), dtype)
  workdir = Path(teacher.workdir)
  path = workdir / "config.json"
  try:
    config = config_lib.from_mapping(json.loads(path.read_text()))
  except OSError as error:
    raise errors.UserError(
      f"the teacher's workdir {workdir} has no config.json; train it first:"
      f" jbin train --config=... --workdir={workdir}"
    ) from error
  model = config.model
  if teacher.model:
    model = config_lib.named(teacher.model, "task.teacher")
  return making.maker(
    model, config.rules, dtype=config.dtype, made_for=made_for
  )


def _frozen(model: nnx.Module, dtype: str) -> nnx.Module:
  """The model, with kernels and tables of this dtype."""
  for path, variable in start.variables(model):
    if path.endswith(("kernel", "embedding")):
      variable.set_value(variable.get_value().astype(dtype))
  return model


def restore_model(
  make: Callable[[], nnx.Module], workdir: Path, mesh: Mesh
) -> tuple[Mapping[str, Any], Any, tuple[nnx.State, nnx.State]]:
  """(info, graphdef, (params, rest)) of a run's newest good checkpoint.

  Parameters are averaged ones, if the run averages them.

  Raises:
    errors.UserError: if there is none, or it is of another model.
  """
  graphdef, params, rest = split(nnx.eval_shape(make))
  tree = {"params": params, "rest": rest}
  shardings = sharding.intended(tree, mesh)

  def targets(info: Mapping[str, Any]) -> dict[str, Any]:
    wanted = {"model": with_shardings(tree, shardings)}
    if "ema" in info["arrays"]:
      wanted["ema"] = wanted["model"]["params"]
    return wanted

  say = functools.partial(print, file=sys.stderr)
  checkpoints = checkpoint.Checkpoints(workdir / "checkpoints", say=say)
  try:
    found = checkpoints.restore(targets)
  finally:
    checkpoints.close()
  if found is None:
    raise errors.UserError(
      f"no checkpoint in {workdir / 'checkpoints'}; train first: jbin train"
      f" --config=... --workdir={workdir}"
    )
  info, groups = found
  learned = groups.get("ema", groups["model"]["params"])
  model = {"params": learned, "rest": groups["model"]["rest"]}
  sharding.check(model, shardings, "after restoring")
  return info, graphdef, (model["params"], model["rest"])


def with_shardings(abstract: Any, shardings: Any) -> Any:
  """Abstract arrays that say where they shall lie."""
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    abstract,
    shardings,
  )


def check_same_model(
  config: config_lib.Config, info: Mapping[str, Any], workdir: Path
) -> None:
  """Raises if a checkpoint's model has other arguments than `config` says.

  Raises:
    errors.UserError: naming the keys that differ.
  """
  differ = config_lib.differences(config, info["config"])
  if other := [
    line for line in differ if line.startswith(("model.", "rules."))
  ]:
    raise errors.UserError(
      f"{workdir} holds another model ({'; '.join(other)}); set these keys as"
      " they were in training"
    )


def check_same_run(
  config: config_lib.Config,
  info: Mapping[str, Any],
  workdir: Path,
  say: Callable[[str], None],
) -> None:
  """Raises if a checkpoint's run is not the one that `config` describes.

  Args:
    config: the config of now.
    info: what the checkpoint says.
    workdir: for the message.
    say: is told of a change that is allowed but matters.

  Raises:
    errors.UserError: naming the keys that differ.
  """
  other = config_lib.differences(config, info["config"])
  if other:
    raise errors.UserError(
      f"{workdir} holds a run of another config ({'; '.join(other)}); choose"
      " another --workdir, or set these keys back to go on"
    )
  if info["step"] > config.steps:
    raise errors.UserError(
      f"{workdir} holds a run of {info['step']} steps already, and"
      f" steps={config.steps}; set more steps, or choose another --workdir"
    )
  before = info["config"]["steps"]
  if before != config.steps:
    say(f"steps was {before}, is {config.steps}: schedules stretch with it")
