"""What is asked of a whole step: its cost by phase, and its peak memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jbin.cost import _count, _peak
from jbin.cost._phases import Training
from jbin.cost._report import Report


def training(
  step: Callable[..., Any],
  *args: Any,
  name: str | None = None,
  weights: int | Sequence[int] = (),
  states: int | Sequence[int] = (),
  donate: int | Sequence[int] = (),
  trips: int | Mapping[str, int] | None = None,
  prefixes: Mapping[int, str] | None = None,
) -> Report:
  """Counts what `step(*args)` costs, phase by phase, with its peak memory.

  A phase is forward, recompute (the forward pass that `jax.checkpoint` runs
  once more), backward or update. JAX leaves its transformations' names in the
  program, which tell the first three; what reads a gradient after them, or
  stands under `jax.named_scope("jbin.update")`, is the update. A product that
  makes the gradient of a parameter is named after its layer if that gradient
  meets the parameter in the program or is returned under its name.

  ```python
  report = jbin.cost.training(jax.grad(loss), params, batch, weights=0)
  report.phases()["backward"]["macs"]
  ```

  Args:
    step: a function that differentiates: `jax.grad(loss)`, or a whole update.
    *args: as `count` takes them; modules stay in the mode that they are in.
    name: the model's name in the report; by default that of `step`.
    weights: positions in `args` of arrays that are parameters.
    states: positions in `args` of arrays that are neither parameters nor data,
      as the moments of an optimizer.
    donate: positions in `args` of what is given up to the step.
    trips: as `count` takes them.
    prefixes: with what the paths of an argument begin, by position; by default
      with its name, or with nothing if it alone holds parameters.

  Raises:
    errors.UserError: as `count`, and if a number in `donate` or `prefixes` is
      no position.
  """
  program, walker, report = _count.walked(
    step,
    args,
    name,
    trips=trips,
    training=True,
    prefixes=prefixes,
    weights=weights,
    states=states,
    donate=donate,
  )
  peak = _peak.of(program, walker, _count.positions("donate", donate))
  return dataclasses.replace(report, training=Training(peak))


def peak(
  fn: Callable[..., Any],
  *args: Any,
  weights: int | Sequence[int] = (),
  states: int | Sequence[int] = (),
  donate: int | Sequence[int] = (),
  training: bool = False,
) -> _peak.Peak:
  """The most bytes that `fn(*args)` keeps at once, read off its program.

  The equations run in the order of the program, each of them alone: operands
  and results are there together, a value goes after its last use, dead code
  makes nothing. Reshapes, transpositions and broadcasts are views. A `scan`
  keeps its stacked results from the first trip on, and works in its carry; a
  `cond` keeps what its largest branch does. XLA fuses, reorders and reuses, so
  its own figure is another: `memory_check` puts both side by side.

  Args:
    fn: as `count` takes it.
    *args: as `count` takes them.
    weights: positions in `args` of parameters.
    states: positions in `args` of other state.
    donate: positions in `args` of what the caller gives up.
    training: whether modules stay in the mode that they are in.

  Raises:
    errors.UserError: as `count`, and if a number in `donate` is no position.
  """
  program, walker, _ = _count.walked(
    fn, args, training=training, weights=weights, states=states, donate=donate
  )
  return _peak.of(program, walker, _count.positions("donate", donate))
