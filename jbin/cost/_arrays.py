"""Shapes and dtypes of what an equation takes and gives."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import Any

from jax.extend import core

from jbin.cost._blocks import Shape


def shape_of(var: core.Var | core.Literal) -> Shape:
  """The shape of a variable; () for what has none (tokens)."""
  return tuple(getattr(var.aval, "shape", ()))


def dtype_of(var: core.Var | core.Literal) -> Any:
  """The dtype of a variable; None for what has none (tokens)."""
  return getattr(var.aval, "dtype", None)


@functools.cache
def dtype_name(dtype: Any) -> str:
  """The name of a dtype; NumPy takes long to spell it."""
  return str(dtype)


def in_shapes(eqn: core.JaxprEqn) -> list[Shape]:
  """The shapes of the operands."""
  return [shape_of(v) for v in eqn.invars]


def out_shapes(eqn: core.JaxprEqn) -> list[Shape]:
  """The shapes of the results."""
  return [shape_of(v) for v in eqn.outvars]


def sizes(eqn: core.JaxprEqn) -> list[int]:
  """The number of elements of each operand."""
  return [math.prod(shape) for shape in in_shapes(eqn)]


def mesh_axes(eqn: core.JaxprEqn) -> tuple[str, ...]:
  """The mesh axes that a collective goes along, as names."""
  return tuple(str(a) for a in _axes(eqn) if not isinstance(a, int))


def own_axes(eqn: core.JaxprEqn) -> tuple[int, ...]:
  """The axes of its operands that it goes along, as `vmap` leaves them."""
  return tuple(a for a in _axes(eqn) if isinstance(a, int))


def _axes(eqn: core.JaxprEqn) -> Iterable[Any]:
  axes = eqn.params.get("axes", eqn.params.get("axis_name", ()))
  if isinstance(axes, str) or not isinstance(axes, Iterable):
    axes = (axes,)
  return axes
