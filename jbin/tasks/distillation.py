"""Distillation: a student learns the answers and the inside of a teacher."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jbin import errors, schedules
from jbin.tasks import _base, _figures, _matching


@_base.REGISTRY.register
def distillation(
  teacher_workdir: str = "",
  teacher: Mapping[str, Any] | None = None,
  teacher_weights: str = "",
  temperature: float = 1.0,
  class_mean: bool = False,
  soft_weight: schedules.Hyper = 1.0,
  hard_weight: schedules.Hyper = 0.0,
  hidden_weight: schedules.Hyper = 0.0,
  hidden_distance: _matching.Distance = "direction",
  similarity_weight: schedules.Hyper = 0.0,
  scores_weight: schedules.Hyper = 0.0,
) -> Distillation:
  """A trained teacher's answers and, of transformers, its inside.

  loss = soft_weight * soft + hard_weight * hard + hidden_weight * hidden
  + similarity_weight * similarity + scores_weight * scores, where soft is
  `soft_cross_entropy(student, teacher, temperature)` and hard the loss against
  the labels. Where labels are floating (a regression) both are squared
  differences of the one logit. The teacher runs in inference mode, is not
  differentiated, and is no part of the student's checkpoints.

  The last three compare what models give with `taps=True`, see
  `tasks.hidden_loss`, `tasks.similarity_loss` and `tasks.scores_loss`. BiBERT's
  loss: class_mean=True, hard_weight=0.5 (0 for a regression),
  hidden_weight=1, similarity_weight=1.

  Args:
    teacher_workdir: a finished run; its newest good checkpoint is the teacher.
    teacher: the teacher's model, `{"name": ..., **arguments}`; None or empty:
      as config.json in its workdir says.
    teacher_weights: in place of a workdir, pretrained parameters of `teacher`:
      a .safetensors file, a folder or a name of the hub.
    temperature: T > 0 of both softmaxes.
    class_mean: whether soft is divided by the number of classes.
    soft_weight: 0 or more, a number or a schedule, as the others.
    hard_weight: see above.
    hidden_weight: see above.
    hidden_distance: "direction" (BiBERT), "squared" (BiPFT) or "tokens"
      (OneBit).
    similarity_weight: see above.
    scores_weight: see above.

  Raises:
    errors.UserError: without a teacher, or if a number is out of range.
  """
  source = _base.teacher_source(
    "distillation", teacher_workdir, teacher, teacher_weights
  )
  if temperature <= 0:
    raise errors.UserError(f"temperature is {temperature}; it must be above 0")
  known = ("direction", "squared")
  if hidden_distance not in known:
    raise errors.UnknownName("hidden_distance", hidden_distance, known)
  weights = {
    "soft": soft_weight,
    "hard": hard_weight,
    "hidden": hidden_weight,
    "similarity": similarity_weight,
    "scores": scores_weight,
  }
  _base.check_weights(weights)
  return Distillation(
    source, temperature, class_mean, hidden_distance, tuple(weights.items())
  )


@dataclasses.dataclass(frozen=True)
class Distillation:
  """The task that `distillation` makes.

  Attributes:
    teacher: where its teacher comes from.
    temperature: of the soft loss.
    class_mean: whether that is divided by the number of classes.
    hidden_distance: of hidden states.
    weights: (term, its weight).
    targets: what it compares with.
  """

  teacher: _base.TeacherSource
  temperature: float
  class_mean: bool
  hidden_distance: _matching.Distance
  weights: tuple[tuple[str, schedules.Hyper], ...]
  targets: tuple[str, ...] = ("label",)
  inputs: tuple[str, ...] = _base.INPUTS

  def loss(
    self,
    model: _base.Model,
    batch: Mapping[str, jax.Array],
    teacher: _base.Model | None = None,
    progress: jax.typing.ArrayLike | None = None,
  ) -> tuple[jax.Array, _base.Metrics]:
    """See `Task.loss`; metrics: loss, cross_entropy, agreement, accuracies.

    "cross_entropy" is against the labels ("squared_error" of a regression),
    "agreement" the share of examples where student and teacher name the same
    class; "hidden_loss", "similarity_loss" and "scores_loss" are there where
    they have a weight.

    Raises:
      errors.UserError: without a teacher, or if student and teacher cannot be
        compared as the weights say.
    """
    if teacher is None:
      raise errors.UserError(
        "the distillation loss needs the teacher's model; pass teacher="
      )
    teacher = _base.asked(teacher)
    given, labels = _base.inputs(batch), batch["label"]
    weight = _base.weights(batch)
    terms = {name: part for name, part in self.weights if _base.is_on(part)}
    inside = [name for name in _INSIDE if name in terms]
    if inside:
      wanted = _matching.tapped("teacher", teacher, given, inside[0])
      found = _matching.tapped("student", model, given, inside[0])
      answer, logits = wanted.logits, found.logits
    else:
      wanted = found = None
      answer, logits = teacher(*given), model(*given)
    answer = jax.lax.stop_gradient(answer)
    hard = _base.label_loss(logits, labels)
    each = {"soft": self._soft(logits, answer, labels), "hard": hard}
    share = {
      name: schedules.value(part, progress) for name, part in terms.items()
    }
    every = sum(share[name] * each[name] for name in each if name in share)
    every = jnp.broadcast_to(every, weight.shape)
    metrics: _base.Metrics = {}
    if _base.is_regression(labels):
      metrics["squared_error"] = _base.total(hard, weight)
    else:
      metrics["cross_entropy"] = _base.total(hard, weight)
      same = jnp.argmax(logits, axis=-1) == jnp.argmax(answer, axis=-1)
      metrics["agreement"] = _base.total(same, weight)
    for name in inside:
      part = self._inside(name, found, wanted, batch)
      metrics[f"{name}_loss"] = _base.total(part, weight)
      every = every + share[name] * part
    metrics["loss"] = _base.total(every, weight)
    metrics |= _figures.of(logits, labels, weight)
    return _base.mean(every, weight), metrics

  def _soft(
    self, logits: jax.Array, answer: jax.Array, labels: jax.Array
  ) -> jax.Array:
    """Of each example, against the teacher's answer."""
    if _base.is_regression(labels):
      return _base.label_loss(logits, _base.answers(answer, labels))
    return _matching.soft_losses(
      logits, answer, self.temperature, class_mean=self.class_mean
    )

  def _inside(
    self,
    name: str,
    student: Any,
    teacher: Any,
    batch: Mapping[str, jax.Array],
  ) -> jax.Array:
    """A term that compares the whole batch."""
    real = batch.get("mask")
    if name == "hidden":
      return _matching.hidden_loss(student, teacher, self.hidden_distance, real)
    if name == "similarity":
      return _matching.similarity_loss(student, teacher, real)
    mask = batch.get("token_mask")
    return _matching.scores_loss(student, teacher, mask, real)


_INSIDE = ("hidden", "similarity", "scores")
