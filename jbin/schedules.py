"""Schedules: a hyper-parameter is a number or a function of `progress`.

`progress` runs from 0 at the first step to 1 after the last. It is a traced
float32 scalar, so a schedule never recompiles anything, and it is part of the
model's state, so it is saved and restored with it. A layer whose quantizer has
a schedule holds a `Progress` variable; the loop sets them all, once a step,
with `set_progress`.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jbin import errors, registry

REGISTRY = registry.Registry("schedule")


@dataclasses.dataclass(frozen=True)
class Schedule:
  """A function of progress; it compares and prints as its arguments."""

  name: str
  arguments: tuple[tuple[str, Any], ...]
  rule: Callable[..., jax.Array] = dataclasses.field(repr=False)

  def __call__(self, progress: jax.typing.ArrayLike) -> jax.Array:
    """The value at `progress` (scalar, traced or not)."""
    return self.rule(jnp.asarray(progress, jnp.float32), **dict(self.arguments))

  def __repr__(self) -> str:
    inside = ", ".join(f"{key}={val!r}" for key, val in self.arguments)
    return f"{self.name}({inside})"


Hyper = float | Schedule
"""A hyper-parameter: a number, or a schedule."""


class Progress(nnx.Variable[jax.Array]):
  """The share of training done, 0 to 1, as a layer with a schedule sees it."""


def value(hyper: Hyper, progress: jax.typing.ArrayLike | None) -> Any:
  """The value of a hyper-parameter now.

  Args:
    hyper: a number (returned as it is) or a schedule.
    progress: scalar in [0, 1]; may be None only where `hyper` is a number.

  Raises:
    errors.UserError: if a schedule is asked for a value without a progress.
  """
  if not callable(hyper):
    return hyper
  if progress is None:
    raise errors.UserError(
      f"the schedule {hyper!r} needs a progress in [0, 1]; pass progress=,"
      " or hold the quantizer in an nn layer, which keeps one"
    )
  return hyper(progress)


def progress_at(step: int, steps: int) -> np.float32:
  """`step / steps` in float32, on the host.

  A threshold of `k / n`, here or in a config, is reached exactly at step k:
  the division is done once, on the host, and not by a device that may round
  it otherwise.
  """
  if steps <= 0:
    raise errors.UserError(f"steps must be positive, got {steps}")
  return np.float32(step) / np.float32(steps)


def set_progress(tree: Any, progress: jax.typing.ArrayLike) -> Any:
  """The same NNX state or module with every `Progress` set to `progress`."""
  now = jnp.asarray(progress, jnp.float32)

  def at(leaf: Any) -> Any:
    if isinstance(leaf, Progress):
      return leaf.replace(jnp.broadcast_to(now, leaf[...].shape))
    return leaf

  return jax.tree.map(
    at, tree, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable)
  )


def is_scheduled(*hypers: Any) -> bool:
  """True if any of these hyper-parameters is a schedule."""
  return any(isinstance(hyper, Schedule) for hyper in hypers)


def _factory(rule: Callable[..., jax.Array]) -> Callable[..., Schedule]:
  """Turns `rule(progress, **arguments)` into a registered factory."""
  signature = inspect.signature(rule)
  _, *rest = signature.parameters.values()

  @functools.wraps(rule)
  def make(*args: Any, **kwargs: Any) -> Schedule:
    bound = inspect.Signature(rest).bind(*args, **kwargs)
    bound.apply_defaults()
    arguments = tuple(
      (key, tuple(val) if isinstance(val, list) else val)
      for key, val in bound.arguments.items()
    )
    return Schedule(rule.__name__, arguments, rule)

  del make.__wrapped__
  make.__signature__ = signature.replace(parameters=rest)  # pyright: ignore[reportAttributeAccessIssue]
  return REGISTRY.register(make)


def _share(progress: jax.Array, begin: float, until: float) -> jax.Array:
  """0 up to `begin`, 1 from `until` on, linear between."""
  return jnp.clip((progress - begin) / max(until - begin, 1e-12), 0.0, 1.0)


def _reached(progress: jax.Array, at: float) -> jax.Array:
  """Whether progress is at a threshold or past it.

  One unit in the last place early: `k / n` in double precision, rounded, may
  be the neighbour of what `progress_at(k, n)` is.
  """
  return progress >= np.nextafter(np.float32(at), np.float32(-1))


@_factory
def constant(progress: jax.Array, value: float) -> jax.Array:
  """The same value throughout."""
  return jnp.full_like(progress, value)


@_factory
def linear(
  progress: jax.Array,
  start: float,
  end: float,
  begin: float = 0.0,
  until: float = 1.0,
) -> jax.Array:
  """From `start` to `end` in a straight line between `begin` and `until`.

  `start + (end - start) * clip((p - begin) / (until - begin), 0, 1)`: flat
  before and after. PokeBNN's learning rate is
  `linear(6.4e-4, 0, until=750 / 800)`.
  """
  return start + (end - start) * _share(progress, begin, until)


@_factory
def warmup_linear(
  progress: jax.Array,
  start: float,
  end: float = 0.0,
  warmup: float = 0.1,
  until: float = 1.0,
) -> jax.Array:
  """Linear from 0 to `start` over `warmup`, then linear to `end` (BERT).

  `start * p / warmup`, then `start + (end - start) * s` with `s` the share of
  `[warmup, until]` that is over.
  """
  down = start + (end - start) * _share(progress, warmup, until)
  up = start * progress / max(warmup, 1e-12)
  return jnp.where(progress < warmup, up, down)


@_factory
def cosine(
  progress: jax.Array,
  start: float,
  end: float = 0.0,
  warmup: float = 0.0,
  until: float = 1.0,
) -> jax.Array:
  """Linear from 0 to `start` over `warmup`, then half a cosine to `end`.

  `end + (start - end) * (1 + cos(pi * s)) / 2` with `s` the share of
  `[warmup, until]` that is over.
  """
  share = _share(progress, warmup, until)
  down = end + (start - end) * 0.5 * (1.0 + jnp.cos(jnp.pi * share))
  return jnp.where(
    progress < warmup, start * progress / max(warmup, 1e-12), down
  )


@_factory
def exponential(
  progress: jax.Array,
  start: float,
  end: float,
  begin: float = 0.0,
  until: float = 1.0,
) -> jax.Array:
  """From `start` to `end`, both positive, by a constant factor.

  `start * (end / start) ** s`, `s` as in `linear`.
  """
  if start <= 0 or end <= 0:
    raise errors.UserError(
      f"exponential needs positive ends, got {start} and {end}"
    )
  share = _share(progress, begin, until)
  return start * jnp.exp(np.float32(np.log(end / start)) * share)


@_factory
def piecewise(
  progress: jax.Array, boundaries: Sequence[float], values: Sequence[float]
) -> jax.Array:
  """`values[i]` from `boundaries[i - 1]` on; one value more than boundaries."""
  if len(values) != len(boundaries) + 1:
    raise errors.UserError(
      f"piecewise needs one value more than boundaries, got {len(values)}"
      f" values and {len(boundaries)} boundaries"
    )
  now = jnp.full_like(progress, values[0])
  for boundary, after in zip(boundaries, values[1:], strict=True):
    now = jnp.where(_reached(progress, boundary), after, now)
  return now


@_factory
def switch(
  progress: jax.Array, at: float, before: float = 0.0, after: float = 1.0
) -> jax.Array:
  """`before` while progress < `at`, `after` from then on."""
  return jnp.where(_reached(progress, at), after, before).astype(progress.dtype)


@_factory
def quarter_cosine(progress: jax.Array, start: float, end: float) -> jax.Array:
  """From `start`, slowly at first, to `end`: a quarter of a cosine (ReSTE).

  `start + (end - start) * (1 - cos(pi p / 2))`. ReSTE's power is
  `quarter_cosine(1, 3)`.
  """
  return start + (end - start) * (1.0 - jnp.cos(0.5 * jnp.pi * progress))


@_factory
def growth(progress: jax.Array, start: float, end: float) -> jax.Array:
  """From `start` to `end` as e^p grows (ReCU).

  `start + (end - start) * (e^p - 1) / (e - 1)`. ReCU's tau is
  `growth(0.85, 0.99)`.
  """
  return start + (end - start) * jnp.expm1(progress) / np.float32(np.expm1(1))


@_factory
def staircase(progress: jax.Array, start: float, end: float) -> jax.Array:
  """Whole numbers from `start` up to `end`: a line, rounded down (FDA).

  `floor(start + (end - start) * p)`. FDA's order is `staircase(9, 18)`.
  """
  exact = start + (end - start) * progress
  # A step that is due at k / n is due, however the product is rounded.
  return jnp.floor(exact + 4e-7 * (1.0 + abs(start) + abs(end)))
