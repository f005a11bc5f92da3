"""Distillation: a student learns the soft answers of a trained teacher."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jbin import errors, schedules
from jbin.tasks import _base


def soft_cross_entropy(
  student_logits: jax.Array,
  teacher_logits: jax.Array,
  temperature: float = 1.0,
) -> jax.Array:
  """Cross entropy of the student against the teacher's probabilities.

  Forward L = -(T^2 / N) sum_n sum_c softmax(t / T)_nc log_softmax(s / T)_nc.
  Backward dL/ds = (T / N) (softmax(s / T) - softmax(t / T)), dL/dt = 0. The
  factor T^2 keeps the gradient's size when T changes; T = 1 is PokeBNN's loss.

  Args:
    student_logits: (n, classes), any float dtype; computed in float32.
    teacher_logits: (n, classes).
    temperature: T > 0.

  Returns:
    float32 scalar.
  """
  return jnp.mean(_soft(student_logits, teacher_logits, temperature))


def _soft(student: jax.Array, teacher: jax.Array, T: float) -> jax.Array:
  """The loss of each example, (n,) float32."""
  student = student.astype(jnp.float32) / T
  teacher = jax.lax.stop_gradient(teacher.astype(jnp.float32)) / T
  log_q = jax.nn.log_softmax(student)
  return -(T * T) * jnp.sum(jax.nn.softmax(teacher) * log_q, axis=-1)


@_base.REGISTRY.register
def distillation(
  teacher_workdir: str,
  teacher: Mapping[str, Any] | None = None,
  temperature: float = 1.0,
  hard_weight: schedules.Hyper = 0.0,
) -> Distillation:
  """Soft cross entropy against a teacher restored from its workdir.

  loss = (1 - hard_weight) * soft_cross_entropy(student, teacher, temperature)
  + hard_weight * cross entropy against the labels. The teacher runs in
  inference mode, is not differentiated, and is no part of the student's
  checkpoints.

  Args:
    teacher_workdir: a finished run; its newest good checkpoint is the teacher.
    teacher: the teacher's model, `{"name": ..., **arguments}`; None or empty:
      as config.json in its workdir says.
    temperature: T > 0 of both softmaxes.
    hard_weight: 0 to 1, or a schedule.

  Raises:
    errors.UserError: without a workdir, or if a number is out of range.
  """
  if not teacher_workdir:
    raise errors.UserError(
      "distillation needs a trained teacher; name its run:"
      " --config.task.teacher_workdir=DIR"
    )
  if temperature <= 0:
    raise errors.UserError(f"temperature is {temperature}; it must be above 0")
  fixed = not callable(hard_weight)
  if fixed and not 0.0 <= hard_weight <= 1.0:
    raise errors.UserError(
      f"hard_weight is {hard_weight}; it must be from 0 to 1"
    )
  source = _base.TeacherSource(teacher_workdir, dict(teacher or {}))
  return Distillation(source, temperature, hard_weight)


@dataclasses.dataclass(frozen=True)
class Distillation:
  """The task that `distillation` makes."""

  teacher: _base.TeacherSource
  temperature: float
  hard_weight: schedules.Hyper

  def loss(
    self,
    model: _base.Model,
    batch: Mapping[str, jax.Array],
    teacher: _base.Model | None = None,
    progress: jax.typing.ArrayLike | None = None,
  ) -> tuple[jax.Array, _base.Metrics]:
    """See `Task.loss`; metrics: loss, cross_entropy, agreement, accuracies.

    "cross_entropy" is against the labels, "agreement" the share of examples
    where student and teacher name the same class.

    Raises:
      errors.UserError: without a teacher.
    """
    if teacher is None:
      raise errors.UserError(
        "the distillation loss needs the teacher's model; pass teacher="
      )
    labels, weight = batch["label"], _base.weights(batch)
    answer = jax.lax.stop_gradient(teacher(batch["image"]))
    logits = model(batch["image"])
    soft = _soft(logits, answer, self.temperature)
    hard = _base.hard_cross_entropy(logits, labels)
    share = schedules.value(self.hard_weight, progress)
    each = (1.0 - share) * soft + share * hard
    same = jnp.argmax(logits, axis=-1) == jnp.argmax(answer, axis=-1)
    metrics = {
      "loss": _base.total(each, weight),
      "cross_entropy": _base.total(hard, weight),
      "agreement": _base.total(same, weight),
    }
    metrics |= _base.accuracies(logits, labels, weight)
    return _base.mean(each, weight), metrics
