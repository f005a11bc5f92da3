"""What a task is, and the parts that tasks share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from jbin import registry

REGISTRY = registry.Registry("task")

Model = Callable[[jax.Array], jax.Array]
"""Images (b, H, W, C) -> logits (b, classes), any float dtype."""

Metrics = dict[str, tuple[jax.Array, jax.Array]]
"""Name -> (sum over examples, number of examples), float32 scalars."""


@dataclasses.dataclass(frozen=True)
class TeacherSource:
  """Where a task's teacher comes from; the loop builds and restores it.

  Attributes:
    workdir: a finished run whose newest checkpoint holds the parameters.
    model: `{"name": ..., **arguments}`; empty: as that run's config.json says.
  """

  workdir: str
  model: Mapping[str, Any]


class Task(Protocol):
  """A loss with metrics over a batch.

  Attributes:
    teacher: where its teacher comes from; None for a task without one.
  """

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
      model: gives logits for `batch["image"]`.
      batch: "image", "label" (b,) int32 and, in evaluation, "mask" (b,)
        float32, 0 for the examples that do not count.
      teacher: the teacher in inference mode, if the task has one.
      progress: share of training done, for hyper-parameters that are schedules.
    """
    ...


def weights(batch: Mapping[str, jax.Array]) -> jax.Array:
  """The weight (b,) float32 of each example: the mask, or ones."""
  if "mask" in batch:
    return batch["mask"].astype(jnp.float32)
  return jnp.ones(batch["label"].shape, jnp.float32)


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


def accuracies(
  logits: jax.Array, labels: jax.Array, weight: jax.Array
) -> Metrics:
  """Top-1 "accuracy" and, with more than 5 classes, "top5_accuracy".

  A tie counts for the class of the lowest index.
  """
  hits = jnp.argmax(logits, axis=-1) == labels
  found = {"accuracy": total(hits, weight)}
  if logits.shape[-1] > 5:
    _, best = jax.lax.top_k(logits.astype(jnp.float32), 5)
    inside = jnp.any(best == labels[:, None], axis=-1)
    found["top5_accuracy"] = total(inside, weight)
  return found
