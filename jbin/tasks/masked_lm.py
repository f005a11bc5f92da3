"""Masked language models: words that were hidden, and the next sentence."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jbin import errors, schedules
from jbin.tasks import _base, _matching


@_base.REGISTRY.register
def masked_lm(
  next_sentence_weight: schedules.Hyper = 1.0,
  teacher_workdir: str = "",
  teacher: Mapping[str, Any] | None = None,
  teacher_weights: str = "",
  soft_weight: schedules.Hyper | None = None,
  hidden_weight: schedules.Hyper | None = None,
) -> MaskedLM:
  """Cross entropy of hidden words, and of whether a text follows another.

  loss = words + next_sentence_weight * next: words is the mean cross entropy
  over all tokens of the batch whose entry of "targets" is no -1, next that of
  the classifier against "label". With a teacher

  loss += soft_weight * soft + hidden_weight * hidden: soft is the cross
  entropy of the classifier against the teacher's probabilities, a mean over
  examples and classes, hidden `tasks.hidden_loss` with squared distances. All
  weights 1: BiPFT's pretraining.

  The model is one with a masked-LM head, `bert(pretraining=True)`.

  Args:
    next_sentence_weight: 0 or more, a number or a schedule, as the others; 0:
      batches need no "label".
    teacher_workdir: a finished run of such a model; "": no teacher.
    teacher: the teacher's model, `{"name": ..., **arguments}`; None or empty:
      as config.json in its workdir says.
    teacher_weights: in place of a workdir, pretrained parameters of `teacher`.
    soft_weight: with a teacher; None is 1.
    hidden_weight: the same.

  Reference: Devlin et al., 2019 (arXiv 1810.04805); Xing et al., 2024 (arXiv
  2312.08937). Differs from BiPFT's code in: the teacher drops nothing out.

  Raises:
    errors.UserError: if a weight is below 0, the teacher is not named in one
      way, there are weights without a teacher, or a teacher whose weights are
      all 0.
  """
  weights: dict[str, schedules.Hyper] = {"next_sentence": next_sentence_weight}
  asked = {"soft": soft_weight, "hidden": hidden_weight}
  source = None
  if teacher_workdir or teacher_weights or teacher:
    source = _base.teacher_source(
      "masked_lm with a teacher", teacher_workdir, teacher, teacher_weights
    )
    of_teacher = {k: 1.0 if w is None else w for k, w in asked.items()}
    _base.check_weights(of_teacher)
    weights |= of_teacher
  else:
    _base.check_untaught("masked_lm", asked)
  _base.check_weights({"words": 1.0, **weights})
  return MaskedLM(source, tuple(weights.items()))


@dataclasses.dataclass(frozen=True)
class MaskedLM:
  """The task that `masked_lm` makes.

  Attributes:
    teacher: where its teacher comes from; None: it has none.
    weights: (term, its weight).
    inputs: what models are called with.
  """

  teacher: _base.TeacherSource | None
  weights: tuple[tuple[str, schedules.Hyper], ...]
  inputs: tuple[str, ...] = _base.INPUTS

  @property
  def targets(self) -> tuple[str, ...]:
    """What it compares with."""
    paired = _base.is_on(dict(self.weights)["next_sentence"])
    return ("targets", "label") if paired else ("targets",)

  def loss(
    self,
    model: _base.Model,
    batch: Mapping[str, jax.Array],
    teacher: _base.Model | None = None,
    progress: jax.typing.ArrayLike | None = None,
  ) -> tuple[jax.Array, _base.Metrics]:
    """See `Task.loss`.

    Metrics: loss, the mean over examples of their batches' losses;
    "masked_lm_loss" and "masked_lm_accuracy", means over the tokens that are to
    be predicted; "next_sentence_loss", "next_sentence_accuracy"; with a teacher
    "soft_loss", "hidden_loss".

    Raises:
      errors.UserError: for a model without a masked-LM head, a batch without
        labels, or a teacher that is missing or cannot be compared.
    """
    if self.teacher is not None and teacher is None:
      raise errors.UserError(
        "this masked_lm has a teacher, and its loss needs the model; pass"
        " teacher="
      )
    given, weight = _base.inputs(batch), _base.weights(batch)
    terms = {
      name: schedules.value(part, progress)
      for name, part in self.weights
      if _base.is_on(part)
    }
    inside = teacher is not None and "hidden" in terms
    found = _asked("model", model, given, inside)
    value, metrics = _words(found.token_logits, batch["targets"], weight)
    losses: dict[str, jax.Array] = {}
    if "next_sentence" in terms:
      each = _base.hard_cross_entropy(found.logits, _labels(batch))
      hits = jnp.argmax(found.logits, -1) == batch["label"]
      metrics["next_sentence_accuracy"] = _base.total(hits, weight)
      losses["next_sentence"] = _base.mean(each, weight)
    if teacher is not None:
      wanted = _asked("teacher", _base.asked(teacher), given, inside)
      if "soft" in terms:
        each = _matching.soft_losses(
          found.logits, wanted.logits, class_mean=True
        )
        losses["soft"] = _base.mean(each, weight)
      if inside:
        real = batch.get("mask")
        losses["hidden"] = _matching.hidden_loss(found, wanted, "squared", real)
    for name, part in losses.items():
      metrics[f"{name}_loss"] = _base.total(part, weight)
      value = value + terms[name] * part
    metrics["loss"] = _base.total(value, weight)
    return value, metrics


def _words(
  scores: jax.Array, targets: jax.Array, weight: jax.Array
) -> tuple[jax.Array, _base.Metrics]:
  """The mean over tokens that are predicted, and its metrics."""
  each, hits, asked = _base.token_losses(scores, targets, weight)
  return _base.mean(each, asked), {
    "masked_lm_loss": _base.total(each, asked),
    "masked_lm_accuracy": _base.total(hits, asked),
  }


def _labels(batch: Mapping[str, jax.Array]) -> jax.Array:
  """Which text follows which.

  Raises:
    errors.UserError: if the batch does not say.
  """
  if "label" not in batch:
    raise errors.UserError(
      "masked_lm: the batch has no 'label' (whether the second text follows the"
      " first); set task.next_sentence_weight=0"
    )
  return batch["label"]


def _asked(
  who: str, model: _base.Model, given: tuple[Any, ...], inside: bool
) -> Any:
  """What a model gives, with its inside if that is compared.

  Raises:
    errors.UserError: if it predicts no words.
  """
  found = (
    _matching.tapped(who, model, given, "hidden") if inside else model(*given)
  )
  if getattr(found, "token_logits", None) is None:
    raise errors.UserError(
      f"masked_lm: the {who} predicts no words; take one with a masked-LM"
      " head, bert(pretraining=True)"
    )
  return found
