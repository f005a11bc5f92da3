"""What activation quantizers learn starts from the first batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from flax import nnx

from jbin import nn, schedules, tasks, views
from jbin.train import restore


class Batches(Protocol):
  """An iterator that can go back."""

  def __next__(self) -> Any:
    """The next batch."""
    ...

  def get_state(self) -> dict[str, Any]:
    """Where it stands."""
    ...

  def set_state(self, state: dict[str, Any]) -> None:
    """Goes to where it stood."""
    ...


def is_due(model: nnx.Module) -> bool:
  """Whether a quantizer of inputs starts from what it first sees (LSQ's).

  Quantizers of kernels see theirs when they are made.

  Args:
    model: abstract or not.
  """
  kernels = {id(part) for part in nn.latents(model).values()}
  return any(
    isinstance(part, nn.Quantizer)
    and part.spec.calibrates
    and id(part) not in kernels
    for _, part in nnx.iter_modules(model)
  )


def peek(batches: Batches) -> Any:
  """The batch that `batches` will give next; it still will."""
  place = batches.get_state()
  batch = next(batches)
  batches.set_state(place)
  return batch


def params(
  graphdef: Any,
  task: tasks.Task,
  teacher: restore.Teacher,
  model_state: Any,
  batch: Mapping[str, Any],
  teacher_state: Any,
) -> nnx.State:
  """The parameters after `batch` was seen; to be compiled.

  Norms take the statistics of the batch, as the first step will, and nothing
  is dropped out. Of the rest of the model nothing is kept.

  Args:
    graphdef: the model's static part.
    task: calls the model.
    teacher: the task's.
    model_state: (params, rest) as they were made.
    batch: the first of training.
    teacher_state: the teacher's arrays.
  """
  start, rest = model_state
  rest = schedules.set_progress(rest, 0.0)
  model = nnx.merge(graphdef, start, rest, copy=True)
  seeing = views.view(model, calibrating=True, deterministic=True)
  task.loss(seeing, batch, teacher.model(teacher_state), 0.0)
  return restore.split(seeing)[1]
