"""Language models: the next token, from a text's or a teacher's hand."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jbin import errors, schedules
from jbin.tasks import _base, _matching


@_base.REGISTRY.register
def language_model(
  teacher_workdir: str = "",
  teacher: Mapping[str, Any] | None = None,
  teacher_weights: str = "",
  hard_weight: schedules.Hyper | None = None,
  soft_weight: schedules.Hyper | None = None,
  hidden_weight: schedules.Hyper | None = None,
) -> LanguageModel:
  """Cross entropy of the next token, against the text or against a teacher.

  loss = hard_weight * hard + soft_weight * soft + hidden_weight * hidden: hard
  is the mean of -log p(target) over all predicted tokens, soft the mean over
  the same tokens of -sum_v p_teacher(v) log p(v), at temperature 1 (the
  autoregressive distillation of FBI-LLM and Bi-Mamba), hidden
  `tasks.hidden_loss` of the states that enter blocks, token by token (OneBit).
  A token with the target -1 is not predicted.

  The code of FBI-LLM and Bi-Mamba has these as `use_kd`: 0 is no teacher, 1,
  which both papers train with, a teacher and nothing else said, 2
  hard_weight=0.5, soft_weight=0.5.

  Args:
    teacher_workdir: a finished run of a language model with the same
      vocabulary; "": no teacher.
    teacher: the teacher's model, `{"name": ..., **arguments}`; None or empty:
      as config.json in its workdir says.
    teacher_weights: in place of a workdir, pretrained parameters of `teacher`.
    hard_weight: 0 or more, a number or a schedule, as the others; None is 1
      without a teacher, and 0 with one.
    soft_weight: with a teacher; None is 1.
    hidden_weight: with a teacher; None is 0.

  Reference: Ma et al., 2024 (arXiv 2407.07093); Tang et al., 2024 (arXiv
  2411.11843); Xu et al., 2024 (arXiv 2402.11295). Differs from the papers in:
  their code also has a `use_kd` 3, without a gradient, which is left out;
  OneBit sums its soft term over tokens and divides by the batch.

  Raises:
    errors.UserError: if a weight is below 0, the teacher is not named in one
      way, there are weights without a teacher, or all weights are 0.
  """
  asked = {"soft": soft_weight, "hidden": hidden_weight}
  weights: dict[str, schedules.Hyper] = {}
  source = None
  if teacher_workdir or teacher_weights or teacher:
    source = _base.teacher_source(
      "language_model with a teacher", teacher_workdir, teacher, teacher_weights
    )
    usual = {"hard": 0.0, "soft": 1.0, "hidden": 0.0}
    given = {"hard": hard_weight, **asked}
    weights = {k: usual[k] if w is None else w for k, w in given.items()}
  else:
    _base.check_untaught("language_model", asked)
    weights["hard"] = 1.0 if hard_weight is None else hard_weight
  _base.check_weights(weights)
  return LanguageModel(source, tuple(weights.items()))


@dataclasses.dataclass(frozen=True)
class LanguageModel:
  """The task that `language_model` makes.

  Attributes:
    teacher: where its teacher comes from; None: it has none.
    weights: (term, its weight).
    targets: what it compares with, and measures by.
    inputs: what models are called with.
  """

  teacher: _base.TeacherSource | None
  weights: tuple[tuple[str, schedules.Hyper], ...]
  targets: tuple[str, ...] = ("targets", "target_bytes")
  inputs: tuple[str, ...] = ("tokens",)

  def loss(
    self,
    model: _base.Model,
    batch: Mapping[str, jax.Array],
    teacher: _base.Model | None = None,
    progress: jax.typing.ArrayLike | None = None,
  ) -> tuple[jax.Array, _base.Metrics]:
    """See `Task.loss`.

    Metrics: loss, the mean over predicted tokens of their batches' losses;
    "cross_entropy", nats of a predicted token; "accuracy"; "bits_per_byte",
    the bits of all predicted tokens over the bytes that they stand for; with a
    teacher "soft_loss", "hidden_loss" where it has a weight, and "agreement",
    the share of tokens where both name the same one.

    Raises:
      errors.UserError: for a batch of another kind, a model that does not score
        each token, or a teacher that is missing or cannot be compared.
    """
    if self.teacher is not None and teacher is None:
      raise errors.UserError(
        "this language_model has a teacher, and its loss needs the model; pass"
        " teacher="
      )
    given, targets = self._given(batch), batch["targets"]
    weight = _base.weights(batch)
    terms = {
      name: schedules.value(part, progress)
      for name, part in self.weights
      if _base.is_on(part)
    }
    inside = "hidden" in terms
    found, logits = _scores("model", model, given, inside)
    hard, hits, asked = _base.token_losses(logits, targets, weight)
    losses = {"hard": _base.mean(hard, asked)}
    nats, count = _base.total(hard, asked)
    metrics: _base.Metrics = {
      "cross_entropy": (nats, count),
      "accuracy": _base.total(hits, asked),
      "bits_per_byte": (
        nats / math.log(2),
        jnp.sum(batch["target_bytes"] * weight),
      ),
    }
    if teacher is not None:
      wanted, answer = _scores("teacher", _base.asked(teacher), given, inside)
      _check_answer(logits, answer)
      each = _matching.soft_losses(logits, answer)
      losses["soft"] = _base.mean(each, asked)
      metrics["soft_loss"] = _base.total(each, asked)
      same = jnp.argmax(logits, -1) == jnp.argmax(answer, -1)
      metrics["agreement"] = _base.total(same, asked)
      if inside:
        real = batch.get("mask")
        part = _matching.hidden_loss(found, wanted, "tokens", real)
        losses["hidden"] = part
        metrics["hidden_loss"] = _base.total(part, weight)
    zero = jnp.zeros((), jnp.float32)
    value = sum((terms[name] * losses[name] for name in terms), zero)
    metrics["loss"] = (value * count, count)
    return value, metrics

  def _given(self, batch: Mapping[str, jax.Array]) -> tuple[jax.Array]:
    """What models are called with.

    Raises:
      errors.UserError: if the batch is none of text that goes on.
    """
    lacks = [x for x in (*self.inputs, *self.targets) if x not in batch]
    more = [x for x in ("segments", "token_mask") if x in batch]
    if lacks or more:
      what = f"has {', '.join(more)}" if more else f"has no {', '.join(lacks)}"
      raise errors.UserError(
        f"language_model: the batch {what}; it takes text without padding, as"
        " data 'text' gives: --config.data.name=text"
      )
    return (batch["tokens"],)


def _scores(
  who: str, model: _base.Model, given: tuple[jax.Array], inside: bool
) -> tuple[Any, jax.Array]:
  """What a model gives, and its scores (b, n, vocabulary).

  Raises:
    errors.UserError: if it does not score each token.
  """
  found = (
    _matching.tapped(who, model, given, "hidden") if inside else model(*given)
  )
  logits: Any = found.logits if inside else found
  shape = getattr(logits, "shape", None)
  if shape is None or len(shape) != 3 or shape[:2] != given[0].shape:
    got = type(found).__name__ if shape is None else shape
    raise errors.UserError(
      f"language_model: for tokens {given[0].shape} the {who} gives {got}, and"
      " scores (examples, tokens, vocabulary) are needed; take a language"
      " model, such as mamba2 or llama"
    )
  return found, logits


def _check_answer(logits: jax.Array, answer: jax.Array) -> None:
  """Raises if the teacher has other tokens.

  Raises:
    errors.UserError: with the size of both vocabularies.
  """
  if logits.shape != answer.shape:
    raise errors.UserError(
      f"language_model: the model has a vocabulary of {logits.shape[-1]} tokens"
      f" and the teacher one of {answer.shape[-1]}; give both the same"
      " tokenizer and vocab_size"
    )
