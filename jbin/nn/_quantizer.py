"""The module that holds what a quantizer learns, measures and is told."""

from __future__ import annotations

from typing import Any

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
    channels: length of the last axis of what is quantized.
    use_running_average: True in the evaluation twin
      (`nnx.view(model, use_running_average=True)`): statistics stay, nothing
      is drawn.
    calibrating: see `calibrate`.
  """

  def __init__(
    self,
    spec: Spec,
    channels: int,
    x: jax.Array | None = None,
    rngs: nnx.Rngs | None = None,
  ):
    """Makes the variables.

    Args:
      spec: a member of `jbin.quantizers`.
      channels: length of the last axis of what will be quantized.
      x: what will be quantized, where it is at hand (a kernel): learned
        scales start from it.
      rngs: for a quantizer that draws (stream "quantizer", or "params").

    Raises:
      errors.UserError: if `spec` is not a quantizer, or needs `rngs`.
    """
    if not isinstance(spec, Spec):
      raise errors.UserError(
        f"expected a quantizer such as jbin.quantizers.sign(), got {spec!r}"
      )
    if rngs is None and (spec.seeded or spec.stochastic):
      raise errors.UserError(
        f"{spec!r} draws random numbers; give rngs=nnx.Rngs(seed)"
      )
    self.spec = spec
    self.channels = channels
    self.use_running_average = False
    self.calibrating = False
    key = rngs.params() if rngs is not None and spec.seeded else None
    self.learned = nnx.Dict(
      {
        name: nnx.Param(value)
        for name, value in spec.parameters(channels, x, key).items()
      }
    )
    self.statistics = nnx.Dict(
      {
        name: QuantizerStat(value)
        for name, value in spec.statistics(channels, x).items()
      }
    )
    self.rngs = (
      rngs["quantizer"].fork()
      if rngs is not None and spec.stochastic
      else nnx.data(None)
    )
    self.progress = (
      schedules.Progress(jnp.zeros((), jnp.float32))
      if spec.scheduled
      else nnx.data(None)
    )

  def __call__(self, x: jax.Array) -> Quantized:
    """Quantizes `x`; its last axis has the channels given at creation."""
    progress = None if self.progress is None else self.progress[...]
    if self.calibrating:
      self._calibrate(x)
    statistics = {name: stat[...] for name, stat in self.statistics.items()}
    if statistics and not self.use_running_average:
      statistics = dict(self.spec.update(x, progress=progress, **statistics))
      for name, value in statistics.items():
        # Not `[...] = value`: Flax asks a tracer for its sharding there, and
        # JAX words that error from all equations so far, each time.
        self.statistics[name].set_value(value)
    variables = {name: param[...] for name, param in self.learned.items()}
    variables |= statistics
    if self.rngs is not None and not self.use_running_average:
      variables["key"] = self.rngs()
    return self.spec(x, progress=progress, **variables)

  def _calibrate(self, x: jax.Array) -> None:
    """Sets the learned parameters from the tensor, where they look at it."""
    if self.spec.calibrates and not self.spec.seeded:
      values = self.spec.parameters(self.channels, jax.lax.stop_gradient(x))
      for name, value in values.items():
        self.learned[name].set_value(value)

  def set_view(
    self,
    use_running_average: bool | None = None,
    calibrating: bool | None = None,
  ) -> None:
    """What `nnx.view` calls."""
    if use_running_average is not None:
      self.use_running_average = use_running_average
    if calibrating is not None:
      self.calibrating = calibrating


def hold(
  spec: Spec | None,
  channels: int,
  x: jax.Array | None = None,
  rngs: nnx.Rngs | None = None,
) -> Quantizer | None:
  """A module for `spec`; None stays None (no quantization)."""
  if spec is None:
    return nnx.data(None)
  return Quantizer(spec, channels, x, rngs)


def calibrate(model: nnx.Module, *args: Any, **kwargs: Any) -> None:
  """Sets what activation quantizers learn from one batch, in place.

  LSQ's steps, BiT's scales and the like start from the first batch in the
  papers' code. `model(*args, **kwargs)` runs once, as for evaluation, and
  every quantizer whose `parameters` look at the tensor takes them from what it
  sees; nothing else changes. Kernels are seen at creation, and need no batch.

  Args:
    model: any module that holds quantizers.
    *args: what the model is called with.
    **kwargs: the same by name.

  Raises:
    errors.UserError: if no quantizer of the model looks at its tensor.
  """
  found = [
    part
    for _, part in nnx.iter_modules(model)
    if isinstance(part, Quantizer) and part.spec.calibrates
  ]
  if not found:
    raise errors.UserError(
      "calibrate: no quantizer of this model starts from a batch; leave the"
      " call out"
    )
  view = nnx.view(
    model,
    calibrating=True,
    use_running_average=True,
    deterministic=True,
    raise_if_not_found=False,
  )
  graphdef, params, rest = nnx.split(view, nnx.Param, ...)

  @jax.jit
  def run(params: Any, rest: Any, args: Any, kwargs: Any) -> Any:
    seen = nnx.merge(graphdef, params, rest, copy=True)
    seen(*args, **kwargs)
    return nnx.split(seen, nnx.Param, ...)[1]

  nnx.update(model, run(params, rest, args, kwargs))
