"""The module that holds what a quantizer learns, measures and is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jbin import errors, schedules, shards
from jbin.quantizers import Quantized, Quantizer as Spec

Layout = Callable[[jax.Array], jax.Array]


class QuantizerStat(nnx.Variable[jax.Array]):
  """A statistic that a quantizer measures; not trained, saved with the rest."""


class QuantizerSeen(nnx.Variable[jax.Array]):
  """What went through while `watching`: (sum of the calls' shares, calls)."""


class Quantizer(nnx.Module):
  """A quantizer as part of a model: `spec` plus its variables.

  Learned parameters are `nnx.Param`, statistics `QuantizerStat`, and, if a
  hyper-parameter is a schedule, there is a `Progress`. While
  `use_running_average` is false each call updates the statistics first and
  then quantizes with them, as the papers' training steps do.

  Attributes:
    spec: the pure quantizer.
    layout: how what it is given is arranged before it is quantized, where a
      layer stores its kernel otherwise than with the output channel last;
      hashable. None: as it is.
    channels: length of the last axis of what is quantized.
    rank: axes of `x` at creation, where it was at hand (a kernel). In a stack
      made by `nnx.vmap` the kernel has more.
    use_running_average: True in the evaluation twin
      (`nnx.view(model, use_running_average=True)`): statistics stay, nothing
      is drawn.
    calibrating: see `calibrate`.
    watching: True in the twin of `nnx.view(model, watching=True)`: each call
      adds to `seen` (a `QuantizerSeen`, made by the first) the share of codes
      above the middle level, or, where there are no codes, of values above 0.
  """

  def __init__(
    self,
    spec: Spec,
    channels: int,
    x: jax.Array | None = None,
    rngs: nnx.Rngs | None = None,
    layout: Layout | None = None,
  ):
    """Makes the variables.

    Args:
      spec: a member of `jbin.quantizers`.
      channels: length of the last axis of what will be quantized.
      x: what will be quantized, where it is at hand (a kernel): learned
        scales start from it.
      rngs: for a quantizer that draws (stream "quantizer", or "params").
      layout: see the attributes; `channels` counts after it, `x` is before.

    Raises:
      errors.UserError: if `spec` is not a quantizer, or needs `rngs`.
    """
    if not isinstance(spec, Spec):
      raise errors.UserError(
        f"expected a quantizer such as jbin.quantizers.sign(), got {spec!r}"
      )
    if rngs is None and (spec.seeded or spec.stochastic):
      raise errors.UserError(
        f"{spec!r} draws random numbers; give rngs=nnx.Rngs(seed), to"
        " jbin.quantize as quantizer_rngs"
      )
    self.spec = spec
    self.layout = layout
    self.channels = channels
    self.rank = None if x is None else x.ndim
    if x is not None and layout is not None:
      x = layout(x)
    self.use_running_average = False
    self.calibrating = False
    self.watching = False
    self.seen: QuantizerSeen | None = nnx.data(None)
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
    """Quantizes `x`; its last axis has the channels given at creation.

    With a `layout` it quantizes `layout(x)`, and returns that arrangement.
    """
    if self.layout is not None:
      x = self.layout(x)
    progress = None if self.progress is None else self.progress[...]
    if self.calibrating:
      self._calibrate(x)
    statistics = _values(self.statistics)
    if statistics and not self.use_running_average:
      statistics = dict(self.spec.update(x, progress=progress, **statistics))
      for name, value in statistics.items():
        # Not `[...] = value`: Flax asks a tracer for its sharding there, and
        # JAX words that error from all equations so far, each time.
        self.statistics[name].set_value(value)
    variables: dict[str, Any] = _values(self.learned) | statistics
    if self.rngs is not None and not self.use_running_average:
      variables["key"] = self.rngs()
    x, variables = shards.varying_alike((x, variables))
    if self.rank is not None:
      variables["stored"] = True
    quantized = self.spec(x, progress=progress, **variables)
    if self.watching:
      self._watch(quantized)
    return quantized

  def _calibrate(self, x: jax.Array) -> None:
    """Sets the learned parameters from the tensor, where they look at it."""
    # A kernel (which has a rank) was seen at creation, or has been restored.
    if self.spec.calibrates and not self.spec.seeded and self.rank is None:
      values = self.spec.parameters(self.channels, jax.lax.stop_gradient(x))
      for name, value in values.items():
        self.learned[name].set_value(value)

  def _watch(self, quantized: Quantized) -> None:
    """Adds the share of what is above the middle."""
    above = quantized.value > 0
    if quantized.codes is not None:
      above = quantized.codes > sum(quantized.levels) / 2
    # Example by example first: one float32 sum ends at 2^24.
    each = above.mean(range(1, above.ndim), dtype=jnp.float32)
    seen = jnp.stack([each.mean(), jnp.float32(1)])
    if self.seen is None:
      self.seen = QuantizerSeen(seen)
    else:
      self.seen.set_value(self.seen[...] + seen)

  def set_view(
    self,
    use_running_average: bool | None = None,
    calibrating: bool | None = None,
    watching: bool | None = None,
  ) -> None:
    """What `nnx.view` calls."""
    if use_running_average is not None:
      self.use_running_average = use_running_average
    if calibrating is not None:
      self.calibrating = calibrating
    if watching is not None:
      self.watching = watching


def _values(variables: nnx.Dict[Any]) -> dict[str, jax.Array]:
  """Of each variable; `nnx.capture` puts a list of its own beside them."""
  return {
    name: variable[...]
    for name, variable in variables.items()
    if isinstance(variable, nnx.Variable)
  }


def hold(
  spec: Spec | None,
  channels: int,
  x: jax.Array | None = None,
  rngs: nnx.Rngs | None = None,
  layout: Layout | None = None,
) -> Quantizer | None:
  """A module for `spec`; None stays None (no quantization)."""
  if spec is None:
    return nnx.data(None)
  return Quantizer(spec, channels, x, rngs, layout)
