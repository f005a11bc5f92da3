"""Which values of a config make a run."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from jbin import errors

if TYPE_CHECKING:
  from jbin.train import config as config_lib


def check(config: config_lib.Config) -> None:
  """Raises for values that no run can have.

  Raises:
    errors.UserError: naming the key and the rule.
  """
  least = {
    "steps": 1,
    "batch_size": 1,
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
  for key in ("data", "fsdp", "tensor"):
    size = getattr(config.mesh, key)
    if size < 1 and size != -1:
      raise errors.UserError(
        f"config key 'mesh.{key}' is {size}; it must be 1 or more devices, or"
        " -1 for all that are left"
      )
  for key in ("weight_decay", "clip_norm", "clip_latents"):
    if not getattr(config.optimizer, key) >= 0:
      raise errors.UserError(
        f"config key 'optimizer.{key}' is {getattr(config.optimizer, key)}; it"
        " must be 0 or more"
      )
  for key, bound in (("every", 0), ("o", 1)):
    if not getattr(config.watch, key) >= bound:
      raise errors.UserError(
        f"config key 'watch.{key}' is {getattr(config.watch, key)}; it must be"
        f" {bound} or more"
      )
  _start(config.start)
  if config.length and config.image_size:
    raise errors.UserError(
      "config keys 'length' and 'image_size' are both set; an example is a text"
      " or an image"
    )
  percent = config.optimizer.shrink_percent
  if isinstance(percent, int | float) and not 0 <= percent <= 50:
    raise errors.UserError(
      f"config key 'optimizer.shrink_percent' is {percent}; it must be from 0"
      " to 50"
    )
  _choice("dtype", config.dtype, ("float32", "bfloat16"))
  mode = config.optimizer.weight_decay_mode
  _choice("optimizer.weight_decay_mode", mode, ("l2", "decoupled"))
  decay = config.optimizer.decay
  reaches = ("kernels", "float", "latents", "learned", "all")
  _choice("optimizer.decay", decay, reaches)


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
