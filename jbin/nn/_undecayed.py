"""Parameters that weight decay leaves alone, as their model says."""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx

_UNDECAYED = "jbin_undecayed"


def undecayed(value: jax.Array) -> nnx.Param[jax.Array]:
  """A parameter that weight decay leaves alone, however many axes it has.

  For what a model has one of for each channel, position or head: a class
  token, positions, a table of relative ones. `optimizers.decayed` takes other
  parameters of two axes and more for kernels, but for those of Flax's layers.

  Args:
    value: to start from.

  Returns:
    The parameter; its metadata say so, in stacks of blocks too.
  """
  return nnx.Param(value, **{_UNDECAYED: True})


def is_undecayed(variable: Any) -> bool:
  """Whether `undecayed` made it; False of a bare array."""
  if not isinstance(variable, nnx.Variable):
    return False
  return bool(variable.get_metadata(_UNDECAYED, False))
