"""What a task is, and the parts that tasks share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from jbin import errors, registry, schedules

REGISTRY = registry.Registry("task")

Model = Callable[..., Any]
"""`inputs(batch)` -> logits (b, classes), any float dtype.

With `taps=True`, where a model has them: `models.Outputs`.
"""

INPUTS = ("image", "tokens", "segments", "token_mask")
"""The arrays of a batch that a model is called with, in this order."""

Metrics = dict[str, tuple[jax.Array, jax.Array]]
"""Name -> (sum over examples, number of examples), float32 scalars."""


@dataclasses.dataclass(frozen=True)
class TeacherSource:
  """Where a task's teacher comes from; the loop builds and restores it.

  Attributes:
    workdir: a finished run whose newest checkpoint holds the parameters.
    model: `{"name": ..., **arguments}`; empty: as that run's config.json says.
    weights: in place of a workdir, pretrained parameters of `model`, as
      `pretrained.load` takes them.
  """

  workdir: str
  model: Mapping[str, Any]
  weights: str = ""


class Task(Protocol):
  """A loss with metrics over a batch.

  Attributes:
    teacher: where its teacher comes from; None for a task without one.
    targets: the arrays of a batch that it compares with, or measures by
      ("label", "targets", "target_bytes").
    inputs: the arrays of a batch that models are called with, where it has
      them.
  """

  @property
  def inputs(self) -> tuple[str, ...]:
    """The arrays of a batch that models are called with."""
    ...

  @property
  def targets(self) -> tuple[str, ...]:
    """The arrays of a batch that it compares with."""
    ...

  @property
  def teacher(self) -> TeacherSource | None:
    """Where the teacher comes from; None for a task without one."""
    ...

  def loss(
    self,
    model: Model,
    batch: Mapping[str, jax.Array],
    teacher: Model | None = None,
    progress: jax.typing.ArrayLike | None = None,
  ) -> tuple[jax.Array, Metrics]:
    """The mean loss (float32 scalar) and the metrics of a batch.

    Args:
      model: gives logits for `inputs(batch)`.
      batch: the arrays of a data set's features and, in evaluation, "mask"
        (b,) float32, 0 for the examples that do not count.
      teacher: the teacher in inference mode, if the task has one.
      progress: share of training done, for hyper-parameters that are schedules.
    """
    ...


def inputs(batch: Mapping[str, Any]) -> tuple[Any, ...]:
  """What a model is called with: the `INPUTS` that the batch has."""
  return tuple(batch[name] for name in INPUTS if name in batch)


def weights(batch: Mapping[str, jax.Array]) -> jax.Array:
  """The weight (b,) float32 of each example: the mask, or ones."""
  if "mask" in batch:
    return batch["mask"].astype(jnp.float32)
  return jnp.ones(next(iter(batch.values())).shape[:1], jnp.float32)


def mean(each: jax.Array, weight: jax.Array) -> jax.Array:
  """sum(each * weight) / max(sum(weight), 1); both (b,), float32."""
  return jnp.sum(each * weight) / jnp.maximum(jnp.sum(weight), 1.0)


def total(each: jax.Array, weight: jax.Array) -> tuple[jax.Array, jax.Array]:
  """(sum, count) of a metric: what `Metrics` holds."""
  return jnp.sum(each.astype(jnp.float32) * weight), jnp.sum(weight)


def hard_cross_entropy(
  logits: jax.Array, labels: jax.Array, smoothing: float = 0.0
) -> jax.Array:
  """-sum_c q_c log_softmax(logits)_c for each example.

  q = (1 - smoothing) * onehot(label) + smoothing / classes.

  Args:
    logits: (b, classes); computed in float32.
    labels: (b,) int32.
    smoothing: 0 to 1.

  Returns:
    (b,) float32.
  """
  log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
  picked = jnp.take_along_axis(log_p, labels[:, None], axis=1)[:, 0]
  if not smoothing:
    return -picked
  return -(1.0 - smoothing) * picked - smoothing * jnp.mean(log_p, axis=1)


def teacher_source(
  task: str, workdir: str, model: Mapping[str, Any] | None, weights: str
) -> TeacherSource:
  """Where a task's teacher comes from, checked.

  Args:
    task: for messages.
    workdir: a finished run, or "".
    model: the teacher's model; None or empty: as the run says.
    weights: pretrained parameters, or "".

  Raises:
    errors.UserError: if there is neither a workdir nor weights, or both, or
      weights without a model.
  """
  if bool(workdir) == bool(weights):
    what = "one teacher, and got two" if workdir else "a trained teacher"
    raise errors.UserError(
      f"{task} needs {what}; name its run:"
      " --config.task.teacher_workdir=DIR, or pretrained weights:"
      " --config.task.teacher_weights=FILE"
    )
  if weights and not model:
    raise errors.UserError(
      f"{task}: teacher_weights='{weights}' are parameters of a model, and it"
      " is not named; set it with its sizes, as"
      " --config.task.teacher=\"{'name': 'llama_7b'}\" (jbin list models)"
    )
  if isinstance(model, str):
    model = {"name": model}
  return TeacherSource(workdir, dict(model or {}), weights)


def asked(teacher: Model) -> Model:
  """The teacher, with variables of its own in this trace.

  NNX scans no module of an outer trace, such as one that was made before the
  loss is differentiated.
  """
  if not isinstance(teacher, nnx.Module):
    return teacher
  return nnx.merge(*nnx.split(teacher), copy=True)  # pyright: ignore[reportReturnType]


def is_on(weight: schedules.Hyper) -> bool:
  """Whether a term of this weight is ever there."""
  return callable(weight) or weight > 0


def check_weights(weights: Mapping[str, schedules.Hyper]) -> None:
  """Checks the weights of a loss's terms.

  Raises:
    errors.UserError: if one is below 0, or all are 0.
  """
  for name, weight in weights.items():
    if not callable(weight) and not weight >= 0:
      raise errors.UserError(f"{name}_weight is {weight}; it must be 0 or more")
  if not any(map(is_on, weights.values())):
    names = ", ".join(f"{name}_weight" for name in weights)
    raise errors.UserError(f"every weight is 0: {names}; set one of them")


def is_regression(labels: jax.Array) -> bool:
  """Whether labels are numbers to come near, and not classes."""
  return jnp.issubdtype(labels.dtype, jnp.floating)


def answers(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """The numbers (b,) float32 that a model gives for a regression.

  Raises:
    errors.UserError: if it gives more than one for an example.
  """
  if logits.size != labels.size:
    raise errors.UserError(
      f"labels are numbers, one an example, and the model gives {logits.shape}"
      f" for {labels.shape}; make it with num_classes=1"
    )
  return jnp.reshape(logits, labels.shape).astype(jnp.float32)


def token_losses(
  scores: jax.Array, targets: jax.Array, weight: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Of each token its loss, whether it is hit, and whether it counts.

  loss = log sum_v exp(score_v) - score_target.

  Args:
    scores: (b, tokens, vocabulary); computed in float32.
    targets: (b, tokens) int32, -1 where nothing is predicted.
    weight: (b,), 0 for the examples that do not count.

  Returns:
    (b, tokens) each: float32, bool, float32.
  """
  words = jnp.maximum(targets, 0)
  own = jnp.take_along_axis(scores, words[..., None], axis=-1)
  # Differences from the largest: a small loss keeps its digits.
  largest = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
  largest = largest.astype(jnp.float32)
  sums = jnp.sum(jnp.exp(scores - largest), axis=-1)
  each = jnp.log(sums) - (own - largest)[..., 0]
  hits = jnp.argmax(scores, axis=-1) == words
  return each, hits, (targets >= 0) * weight[:, None]


def check_untaught(
  task: str, weights: Mapping[str, schedules.Hyper | None]
) -> None:
  """Raises for weights of what a teacher says, where there is none.

  Raises:
    errors.UserError: if one is given.
  """
  if given := [name for name, weight in weights.items() if weight is not None]:
    raise errors.UserError(
      f"{task}: {given[0]}_weight is of what a teacher says, and there is"
      " none; set task.teacher_workdir, or leave it out"
    )


def label_loss(
  logits: jax.Array, labels: jax.Array, smoothing: float = 0.0
) -> jax.Array:
  """The loss (b,) float32 of each example against its label.

  `hard_cross_entropy`; for floating labels `(logit - label)^2`.
  """
  if is_regression(labels):
    return jnp.square(answers(logits, labels) - labels.astype(jnp.float32))
  return hard_cross_entropy(logits, labels, smoothing)
