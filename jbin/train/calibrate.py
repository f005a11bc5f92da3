"""What activation quantizers learn, and hashes, start from the first batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from flax import nnx

from jbin import nn, schedules, tasks, views
from jbin.train import metrics, restore, start


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
  """Whether something starts from what it first sees.

  That is a quantizer of inputs such as LSQ's, and any `nn.KernelHash`.
  Quantizers of kernels see theirs when they are made.

  Args:
    model: abstract or not.
  """
  kernels = {id(part) for part in nn.latents(model).values()}
  return any(
    isinstance(part, nn.KernelHash)
    or (
      isinstance(part, nn.Quantizer)
      and part.spec.calibrates
      and id(part) not in kernels
    )
    for _, part in nnx.iter_modules(model)
  )


def first(batches: Batches) -> Any:
  """The batch that `batches` will give next; it still will.

  Raises:
    FloatingPointError: if it has values that are not finite.
  """
  place = batches.get_state()
  batch = next(batches)
  batches.set_state(place)
  if said := metrics.wrong_input(batch, "the first batch"):
    raise FloatingPointError(
      f"{said}, and quantizers start from them; look at these examples, or take"
      " another seed"
    )
  return batch


def seen(
  graphdef: Any,
  task: tasks.Task,
  teacher: restore.Teacher,
  model_state: Any,
  batch: Mapping[str, Any],
  teacher_state: Any,
  values: Mapping[str, Any],
) -> tuple[nnx.State, nnx.State]:
  """The model's state after `batch` was seen; to be compiled.

  Norms take the statistics of the batch, as the first step will, and nothing
  is dropped out. The parameters are kept and, of the rest of the model, what
  hashes have learned (`nn.HashState`); statistics and streams stay as they
  were made.

  Args:
    graphdef: the model's static part.
    task: calls the model.
    teacher: the task's.
    model_state: (params, rest) as they were made.
    batch: the first of training.
    teacher_state: the teacher's arrays.
    values: what the run starts from, by path, which stays.

  Returns:
    (params, rest).
  """
  params, rest = model_state
  begun = schedules.set_progress(rest, 0.0)
  model = nnx.merge(graphdef, params, begun, copy=True)
  seeing = views.view(model, calibrating=True, deterministic=True)
  task.loss(seeing, batch, teacher.model(teacher_state), 0.0)
  _, params, after = restore.split(start.put(seeing, values))
  hashes = nnx.filter_state(after, nn.HashState)
  return params, nnx.merge_state(rest, hashes)
