"""Classification: cross entropy against labels; numbers are regressed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax

from jbin import errors
from jbin.tasks import _base, _figures


@_base.REGISTRY.register
def classification(label_smoothing: float = 0.0) -> Classification:
  """Cross entropy against labels; top-1 and top-5 accuracy.

  loss = mean_n -sum_c q_nc log_softmax(logits)_nc with
  q = (1 - label_smoothing) * onehot + label_smoothing / classes. Where labels
  are floating (a regression) it is mean_n (logit_n - label_n)^2.

  Args:
    label_smoothing: from 0 to below 1.

  Raises:
    errors.UserError: if it is outside.
  """
  if not 0.0 <= label_smoothing < 1.0:
    raise errors.UserError(
      f"label_smoothing is {label_smoothing}; it must be from 0 to below 1"
    )
  return Classification(label_smoothing)


@dataclasses.dataclass(frozen=True)
class Classification:
  """The task that `classification` makes."""

  label_smoothing: float
  teacher: None = None
  targets: tuple[str, ...] = ("label",)
  inputs: tuple[str, ...] = _base.INPUTS

  def loss(
    self,
    model: _base.Model,
    batch: Mapping[str, jax.Array],
    teacher: _base.Model | None = None,
    progress: jax.typing.ArrayLike | None = None,
  ) -> tuple[jax.Array, _base.Metrics]:
    """See `Task.loss`; metrics: loss, accuracy, top5_accuracy.

    Of two classes, and of a regression, what `tasks.summary` makes
    correlations of.

    Raises:
      errors.UserError: for a regression with smoothed labels, or with more
        than one logit.
    """
    del teacher, progress
    logits, labels = model(*_base.inputs(batch)), batch["label"]
    weight = _base.weights(batch)
    if self.label_smoothing and _base.is_regression(labels):
      raise errors.UserError(
        f"label_smoothing is {self.label_smoothing}, and labels are numbers;"
        " set it to 0"
      )
    each = _base.label_loss(logits, labels, self.label_smoothing)
    metrics = {"loss": _base.total(each, weight)}
    metrics |= _figures.of(logits, labels, weight)
    return _base.mean(each, weight), metrics
