"""A trained language model to use, as a run's newest checkpoint has it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flax import nnx

from jbin import errors, views
from jbin.train import (
  build,
  config as config_lib,
  making,
  restore,
  sharding,
  start,
)

if TYPE_CHECKING:
  from jbin import data


def language_model(
  config: config_lib.Config, workdir: Path
) -> tuple[nnx.Module, data.Tokenizer]:
  """The model of a run, and the tokenizer that it learned its words from.

  The run's texts need not be there, unless the tokenizer learns from them.

  Raises:
    errors.UserError: if there is no checkpoint, it is of another model or of
      one that makes no text, or the tokenizer is another one than the run's.
  """
  made_for, tokenizer = build.words(config)
  make = making.maker(
    config.model, config.rules, dtype=config.dtype, made_for=made_for
  )
  mesh = sharding.of(config.mesh)
  info, graphdef, state = restore.restore_model(make, workdir, mesh)
  restore.check_same_model(config, info, workdir)
  found = views.evaluation(nnx.merge(graphdef, *state))
  if not hasattr(found, "init_cache"):
    raise errors.UserError(
      f"model '{config.model.name}' makes no text; take a language model, such"
      " as 'mamba2' or 'llama'"
    )
  start.check_vocabulary(info, config.data.name, lambda: tokenizer, workdir)
  return found, tokenizer
