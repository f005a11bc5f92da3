"""How fast a run is, and what it waits for: numbers for timing.jsonl alone."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from jax.sharding import Mesh

from jbin import cost

if TYPE_CHECKING:
  from jbin.train import program

_NAMES = ("data", "device")


class Speed:
  """A clock of training steps.

  ```python
  speed = Speed(examples=64)
  with speed.waiting("data"):
    batch = next(batches)
  with speed.aside():  # what is no training
    evaluate()
  speed.take(step)  # since the last `take`
  ```

  It counts what this process sees; a step is that of all processes together.
  """

  def __init__(
    self,
    *,
    examples: int,
    tokens: int = 0,
    flops: float = 0.0,
    devices: int = 1,
    peak: float | None = None,
    step: int = 0,
    clock: Callable[[], float] = time.perf_counter,
  ):
    """Starts the clock.

    Args:
      examples: of a step, over all devices.
      tokens: of a step, as many as its texts have places for; 0: none.
      flops: of a step, over all devices: two for each multiply-accumulate of
        forward and backward pass, of any bits, recomputation left out; 0: not
        known.
      devices: that share a step.
      peak: FLOP/s of one device; None: not known, and so is what share of it
        is used.
      step: those done before.
      clock: seconds.
    """
    self._each = {
      "examples": examples,
      "tokens": tokens,
      "model_flops": flops / devices,
    }
    self._peak = peak
    self._clock = clock
    self._waited: dict[str, float] = dict.fromkeys(_NAMES, 0.0)
    self._aside = 0.0
    self._step = step
    self._since = clock()

  @contextlib.contextmanager
  def waiting(self, what: str) -> Iterator[None]:
    """Time inside is spent on waiting for "data" or the "device"."""
    begin = self._clock()
    try:
      yield
    finally:
      self._waited[what] += self._clock() - begin

  @contextlib.contextmanager
  def aside(self) -> Iterator[None]:
    """Time inside is no training: an evaluation, a checkpoint."""
    begin, waited = self._clock(), dict(self._waited)
    try:
      yield
    finally:
      self._waited = waited
      self._aside += self._clock() - begin

  def take(self, step: int) -> dict[str, float]:
    """What was measured since the last call; then it begins anew.

    Args:
      step: those done by now.

    Returns:
      seconds, steps_per_second, examples_per_second; tokens_per_second if
      there are tokens; model_flops_per_second, of one device, if they are
      known, and mfu, their share of the device's peak, if that is; wait_data
      and wait_device, shares of the seconds.
    """
    now = self._clock()
    seconds = max(now - self._since - self._aside, 1e-9)
    rate = (step - self._step) / seconds
    found = {"seconds": seconds, "steps_per_second": rate}
    for name, n in self._each.items():
      if n:
        found[f"{name}_per_second"] = n * rate
    if self._peak and self._each["model_flops"]:
      found["mfu"] = found["model_flops_per_second"] / self._peak
    for name, waited in self._waited.items():
      found[f"wait_{name}"] = waited / seconds
    self._waited = dict.fromkeys(_NAMES, 0.0)
    self._aside, self._step, self._since = 0.0, step, now
    return found


def of(made: program.Program, mesh: Mesh, flops: float, step: int = 0) -> Speed:
  """The clock of a run.

  Args:
    made: its step.
    mesh: the devices.
    flops: of a step, over all devices; see `header.costs`.
    step: those done before.
  """
  return Speed(
    examples=made.config.batch_size,
    tokens=tokens_of(made.batch),
    flops=flops,
    devices=mesh.size,
    peak=peak_of(mesh.devices.flat[0], made.config.dtype),
    step=step,
  )


def peak_of(device: Any, dtype: str) -> float | None:
  """FLOP/s of a device for products of a type; None if it is not known.

  Those of float32 are done on the unit that JAX takes for them by default:
  bfloat16 on a TPU, TF32 on a GPU. Products of codes may run on a faster one
  (int8), so a low-bit net's share of this peak may be over 1.

  Args:
    device: of `jax.devices()`.
    dtype: "float32" or "bfloat16".
  """
  chip = cost.chip_of(device.device_kind)
  if chip is None:
    return None
  return chip.peaks.get(chip.float32 if dtype == "float32" else dtype)


def tokens_of(batch: Any) -> int:
  """Tokens of a batch, abstract or not: the size of its "tokens", or 0."""
  found = batch.get("tokens")
  return 0 if found is None else math.prod(found.shape)
