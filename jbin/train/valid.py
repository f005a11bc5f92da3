"""Which values of a config make a run."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from jbin import errors

if TYPE_CHECKING:
  from jbin.train import config as config_lib

_MOST = {"seed": 2**32 - 1}  # of other whole numbers: what int32 holds


def check(config: config_lib.Config) -> None:
  """Raises for values that no run can have.

  Raises:
    errors.UserError: naming the key and the rule.
  """
  for path, value, own in _leaves(config, ""):
    _number(path, value, finite=own)
  least = {
    "steps": 1,
    "batch_size": 1,
    "accumulate": 1,
    "log_every": 1,
    "keep": 1,
    "image_size": 0,
    "length": 0,
    "eval_batch_size": 0,
    "eval_every": 0,
    "checkpoint_every": 0,
    "workers": 0,
    "seed": 0,
  }
  for key, bound in least.items():
    if getattr(config, key) < bound:
      raise errors.UserError(
        f"config key '{key}' is {getattr(config, key)}; it must be {bound} or"
        " more"
      )
  _mesh(config.mesh)
  for key in ("weight_decay", "clip_norm", "clip_latents"):
    if not getattr(config.optimizer, key) >= 0:
      raise errors.UserError(
        f"config key 'optimizer.{key}' is {getattr(config.optimizer, key)}; it"
        " must be 0 or more"
      )
  _groups(config)
  _steps(config)
  _start(config.start)
  if config.length and config.image_size:
    raise errors.UserError(
      "config keys 'length' and 'image_size' are both set; an example is a text"
      " or an image; set one of them to 0"
    )
  rate = config.optimizer.learning_rate
  if isinstance(rate, float) and rate < 0:
    raise errors.UserError(
      f"config key 'optimizer.learning_rate' is {rate}; it must be 0 or more"
    )
  percent = config.optimizer.shrink_percent
  if isinstance(percent, int | float) and not 0 <= percent <= 50:
    raise errors.UserError(
      f"config key 'optimizer.shrink_percent' is {percent}; it must be from 0"
      " to 50"
    )
  if isinstance(config.ema, float) and not 0 <= config.ema < 1:
    raise errors.UserError(
      f"config key 'ema' is {config.ema}; it must be from 0 to below 1"
    )
  _choice("dtype", config.dtype, ("float32", "bfloat16"))
  _choice("residuals", config.residuals, ("bits", "floats"))
  mode = config.optimizer.weight_decay_mode
  _choice("optimizer.weight_decay_mode", mode, ("l2", "decoupled"))
  decay = config.optimizer.decay
  reaches = ("kernels", "float", "latents", "learned", "all")
  _choice("optimizer.decay", decay, reaches)


def _leaves(group: Any, path: str) -> Iterator[tuple[str, Any, bool]]:
  """(path, value, whether it is a key of jbin's own) of each value."""
  if dataclasses.is_dataclass(group):
    for field in dataclasses.fields(group):
      at = path if field.metadata.get("rest") else f"{path}{field.name}."
      yield from _leaves(getattr(group, field.name), at)
  elif isinstance(group, Mapping):
    for key, item in group.items():
      for at, value, _ in _leaves(item, f"{path}{key}."):
        yield at, value, False
  elif isinstance(group, list | tuple):
    for i, item in enumerate(group):
      for at, value, _ in _leaves(item, f"{path}{i}."):
        yield at, value, False
  else:
    yield path.removesuffix("."), group, True


def _number(path: str, value: Any, *, finite: bool) -> None:
  """Raises for a number with which nothing can be computed."""
  if isinstance(value, float) and (
    math.isnan(value) or (finite and math.isinf(value))
  ):
    raise errors.UserError(
      f"config key '{path}' is {value}; it must be a finite number"
    )
  most = _MOST.get(path, 2**31 - 1)
  if isinstance(value, int) and abs(value) > most:
    raise errors.UserError(
      f"config key '{path}' is {value}; it must be {most} or less"
    )


_LEAST = {
  ("watch", "every"): 0,
  ("watch", "o"): 1,
  ("guard", "skip"): 0,
  ("guard", "spike"): 0,
  ("profile", "first"): 0,
  ("profile", "last"): 0,
}


def _groups(config: config_lib.Config) -> None:
  for (group, key), bound in _LEAST.items():
    value = getattr(getattr(config, group), key)
    if not value >= bound:
      raise errors.UserError(
        f"config key '{group}.{key}' is {value}; it must be {bound} or more"
      )
  if 0 < config.guard.spike <= 1:
    raise errors.UserError(
      f"config key 'guard.spike' is {config.guard.spike}, and every second step"
      " is above the mean; it must be more than 1, or 0 for none"
    )


def _mesh(mesh: config_lib.Mesh) -> None:
  for key in ("data", "fsdp", "sequence", "tensor"):
    size = getattr(mesh, key)
    if size < 1 and size != -1:
      raise errors.UserError(
        f"config key 'mesh.{key}' is {size}; it must be 1 or more devices, or"
        " -1 for all that are left"
      )
  _choice("mesh.gather", mesh.gather, ("packed", "floats"))


def _steps(config: config_lib.Config) -> None:
  """Raises for parts of a batch, or steps to profile, that are none."""
  parts = config.accumulate
  if config.batch_size % parts:
    raise errors.UserError(
      f"config key 'accumulate' is {parts}, and batch_size"
      f" {config.batch_size} is no multiple of it; choose a divisor"
    )
  first, last = config.profile.first, config.profile.last
  if first > config.steps:
    raise errors.UserError(
      f"config key 'profile.first' is {first}, and the run has"
      f" {config.steps} steps; set one of them, or 0 for no profile"
    )
  if last and not 0 < first <= last:
    raise errors.UserError(
      f"config keys 'profile.first' and 'profile.last' are {first} and {last};"
      " they must be the first and the last of the steps, from 1 on"
    )


def _start(start: config_lib.Start) -> None:
  if start.workdir and start.weights:
    raise errors.UserError(
      "config keys 'start.workdir' and 'start.weights' are both set; leave one"
      " out"
    )
  if start.fresh and not (start.workdir or start.weights):
    raise errors.UserError(
      f"config key 'start.fresh' is {start.fresh!r}, but parameters start from"
      " nothing; set start.workdir or start.weights"
    )
  _pattern("start.fresh", start.fresh)


def _pattern(key: str, text: str) -> None:
  try:
    re.compile(text)
  except re.error as error:
    raise errors.UserError(
      f"config key '{key}' is {text!r}, which is no regular expression: {error}"
    ) from error


def _choice(key: str, value: str, known: tuple[str, ...]) -> None:
  if value not in known:
    raise errors.UserError(
      f"config key '{key}' is {value!r}; it must be"
      f" {' or '.join(map(repr, known))}"
    )
