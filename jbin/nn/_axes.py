"""Names of parameters' axes, by which a mesh splits them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from flax import nnx

from jbin import errors
from jbin.nn import _stack

M = TypeVar("M", bound=nnx.Module)
_AXES = "jbin_axes"


def name_axes(layer: M, **names: Sequence[str | None]) -> M:
  """Says what the axes of a layer's parameters are, for who splits them.

  `shards.LOGICAL` says which axis of a mesh splits which of them;
  parameters without names are split by their sizes.

  Args:
    layer: changed in place: the parameters' metadata.
    **names: of each axis of a parameter, `kernel=("embed", "mlp")`; None for
      one that is not split. The axes of stacks are not among them.

  Returns:
    The layer.

  Raises:
    errors.UserError: if a parameter has another number of axes.
  """
  for name, axes in names.items():
    variable = getattr(layer, name)
    if len(variable.shape) != len(axes):
      raise errors.UserError(
        f"{type(layer).__name__}.{name} has the shape {variable.shape}, and"
        f" {len(axes)} names of axes were given: {', '.join(map(str, axes))}"
      )
    variable.set_metadata(_AXES, tuple(axes))
  return layer


def axis_names(variable: Any) -> tuple[str | None, ...] | None:
  """The names of a parameter's axes, those of stacks (None) too.

  Args:
    variable: what `name_axes` has seen; of anything else, an array as well,
      the answer is None.
  """
  if not isinstance(variable, nnx.Variable):
    return None
  names = variable.get_metadata(_AXES, None)
  if names is None:
    return None
  return (None,) * _stack.stack_axes(variable) + names
