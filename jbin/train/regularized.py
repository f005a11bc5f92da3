"""A task whose loss has a regularizer of the latent weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jbin import errors, optimizers, schedules, tasks


@dataclasses.dataclass(frozen=True)
class Regularized:
  """Another task, with `function(latents, **hypers)` added to its loss.

  The latent weights are those of 1- and 2-bit quantizers, each layer's as its
  quantizer sees it. The sum is the metric "regularizer", in training and
  evaluation; the metric "loss" stays the other task's.

  Attributes:
    task: the other task.
    function: a member of `regularizers`.
    hypers: its arguments but the weights; numbers, schedules, options.
  """

  task: tasks.Task
  function: Callable[..., jax.Array]
  hypers: Mapping[str, Any]

  @property
  def targets(self) -> tuple[str, ...]:
    """Those of the task."""
    return self.task.targets

  @property
  def inputs(self) -> tuple[str, ...]:
    """Those of the task."""
    return self.task.inputs

  @property
  def teacher(self) -> tasks.TeacherSource | None:
    """That of the task."""
    return self.task.teacher

  def loss(
    self,
    model: tasks.Model,
    batch: Mapping[str, jax.Array],
    teacher: tasks.Model | None = None,
    progress: jax.typing.ArrayLike | None = None,
  ) -> tuple[jax.Array, tasks.Metrics]:
    """See `Task.loss`; `model` is an NNX module.

    Raises:
      errors.UserError: if the model has no such weights.
    """
    assert isinstance(model, nnx.Module)
    # Before the call, which may make variables of its own.
    weights = optimizers.latent_layers(
      nnx.state(model, nnx.Param), optimizers.latent_mask(model, 2)
    )
    if not weights:
      raise errors.UserError(
        f"the regularizer '{self.function.__name__}' is for latent weights of"
        " 1 or 2 bits, and the model has none; leave config.regularizer out, or"
        " give layers a kernel_quantizer"
      )
    hypers = {
      key: schedules.value(hyper, progress)
      for key, hyper in self.hypers.items()
    }
    extra = self.function(weights, **hypers)
    loss, metrics = self.task.loss(model, batch, teacher, progress)
    one = jnp.ones((), jnp.float32)
    return loss + extra, metrics | {"regularizer": (extra, one)}
