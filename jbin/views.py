"""Twins of a model in another mode."""

from __future__ import annotations

from typing import TypeVar

from flax import nnx

M = TypeVar("M", bound=nnx.Module)


def view(model: M, **modes: bool) -> M:
  """`nnx.view`, with a model's random streams left alone.

  Flax 0.12 asks every node for a `set_view` to call. An `nnx.Rngs` takes that
  for the name of a stream, and draws: a model that keeps its `rngs` would give
  other numbers after a look at it, and an abstract one an error.

  Args:
    model: any module, abstract or not; the twin has its variables.
    **modes: what `nnx.view` sets; modes that no module has are passed over.
  """
  own = nnx.Not(nnx.OfType(nnx.Rngs))
  return nnx.view(model, only=own, raise_if_not_found=False, **modes)


def evaluation(model: M) -> M:
  """The twin for evaluation: no dropout, statistics stay as they are."""
  return view(model, deterministic=True, use_running_average=True)
