"""The module that holds what a quantizer learns, measures and is told."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from jbin import errors, schedules
from jbin.quantizers import Quantized, Quantizer as Spec


class QuantizerStat(nnx.Variable[jax.Array]):
  """A statistic that a quantizer measures; not trained, saved with the rest."""


class Quantizer(nnx.Module):
  """A quantizer as part of a model: `spec` plus its variables.

  Learned parameters are `nnx.Param`, statistics `QuantizerStat`, and, if a
  hyper-parameter is a schedule, there is a `Progress`. While
  `use_running_average` is false each call updates the statistics first and
  then quantizes with them, as the papers' training steps do.

  Attributes:
    spec: the pure quantizer.
    use_running_average: True in the evaluation twin
      (`nnx.view(model, use_running_average=True)`): statistics stay.
  """

  def __init__(self, spec: Spec, channels: int):
    """Makes the variables.

    Args:
      spec: a member of `jbin.quantizers`.
      channels: length of the last axis of what will be quantized.

    Raises:
      errors.UserError: if `spec` is not a quantizer.
    """
    if not isinstance(spec, Spec):
      raise errors.UserError(
        f"expected a quantizer such as jbin.quantizers.sign(), got {spec!r}"
      )
    self.spec = spec
    self.use_running_average = False
    self.learned = nnx.Dict(
      {
        name: nnx.Param(value)
        for name, value in spec.parameters(channels).items()
      }
    )
    self.statistics = nnx.Dict(
      {
        name: QuantizerStat(value)
        for name, value in spec.statistics(channels).items()
      }
    )
    self.progress = (
      schedules.Progress(jnp.zeros((), jnp.float32))
      if spec.scheduled
      else nnx.data(None)
    )

  def __call__(self, x: jax.Array) -> Quantized:
    """Quantizes `x`; its last axis has the channels given at creation."""
    progress = None if self.progress is None else self.progress[...]
    statistics = {name: stat[...] for name, stat in self.statistics.items()}
    if statistics and not self.use_running_average:
      statistics = dict(self.spec.update(x, progress=progress, **statistics))
      for name, value in statistics.items():
        # Not `[...] = value`: Flax asks a tracer for its sharding there, and
        # JAX words that error from all equations so far, each time.
        self.statistics[name].set_value(value)
    learned = {name: param[...] for name, param in self.learned.items()}
    return self.spec(x, progress=progress, **learned, **statistics)

  def set_view(self, use_running_average: bool | None = None) -> None:
    """What `nnx.view` calls."""
    if use_running_average is not None:
      self.use_running_average = use_running_average


def hold(spec: Spec | None, channels: int) -> Quantizer | None:
  """A module for `spec`; None stays None (no quantization)."""
  return nnx.data(None) if spec is None else Quantizer(spec, channels)
