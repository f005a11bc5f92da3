"""A quantizer that begins later than training does."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax

from jbin import errors, references, schedules
from jbin.quantizers import _base


@_base.REGISTRY.register
@dataclasses.dataclass(frozen=True)
class delayed(_base.Quantizer):  # noqa: N801 - called like a function
  """Any quantizer, from a certain progress on; floats before.

  Forward and backward: those of `quantizer` from progress `start` on; before,
  `y = x` and `dx = dy`. Nothing recompiles at the switch. Products take the
  float value for the whole run, since codes exist only once it is on; with
  `start <= 0` it is `quantizer` itself, with its codes. At zero: as that
  has it.

  Attributes:
    quantizer: what it becomes.
    start: the progress from which it is on, 0 to 1.

  Reference: PokeBNN's two phases (arXiv 2112.00133) and the two steps of
  ReActNet; BiViT's cross-layer binarization delays whole layers. Differs from
  theirs in: one run, where theirs start a second one from the first's weights.
  """

  bits: int = dataclasses.field(init=False, repr=False)
  quantizer: _base.Quantizer
  start: float

  def __post_init__(self) -> None:
    """Takes the width of what it delays."""
    if not isinstance(self.quantizer, _base.Quantizer):
      raise errors.UserError(
        f"delayed needs a quantizer, got {self.quantizer!r}; write"
        " delayed(jbin.quantizers.sign(), 0.3)"
      )
    if not 0.0 <= self.start <= 1.0:
      raise errors.UserError(
        f"delayed: start is {self.start}; it must be a progress from 0 to 1"
      )
    object.__setattr__(self, "bits", self.quantizer.bits)
    super().__post_init__()

  def quantize(self, x: jax.Array, now: _base.Now) -> _base.Quantized:
    """Quantizes `x`, or not yet."""
    on = self.quantizer.quantize(x, now)
    if self.start <= 0:
      return on
    active = now.value(schedules.switch(self.start)) > 0
    return _base.gate(active, on, x)

  def parameters(
    self,
    channels: int,
    x: jax.Array | None = None,
    key: jax.Array | None = None,
  ) -> Mapping[str, jax.Array]:
    """Those of the quantizer."""
    return self.quantizer.parameters(channels, x, key)

  def statistics(
    self, channels: int, x: jax.Array | None = None
  ) -> Mapping[str, jax.Array]:
    """Those of the quantizer."""
    return self.quantizer.statistics(channels, x)

  def update(
    self,
    x: jax.Array,
    *,
    progress: jax.Array | None,
    **statistics: jax.Array,
  ) -> Mapping[str, jax.Array]:
    """As the quantizer has it."""
    return self.quantizer.update(x, progress=progress, **statistics)

  @property
  def seeded(self) -> bool:
    """As the quantizer is."""
    return self.quantizer.seeded

  @property
  def calibrates(self) -> bool:
    """As the quantizer does."""
    return self.quantizer.calibrates

  @property
  def stochastic(self) -> bool:
    """As the quantizer is."""
    return self.quantizer.stochastic

  @property
  def scheduled(self) -> bool:
    """Whether it starts later, or the quantizer has a schedule."""
    return self.start > 0 or self.quantizer.scheduled

  @property
  def references(self) -> tuple[str, ...]:
    """What the quantizer cites."""
    return references.of(self.quantizer)
