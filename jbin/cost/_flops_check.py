"""XLA's own count of a program beside ours, and why they differ."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend import core

from jbin.cost import _count
from jbin.cost._report import Report


@dataclasses.dataclass(frozen=True)
class FlopsCheck:
  """Both counts of one program.

  Attributes:
    macs: multiply-accumulates, as a report counts them.
    flops: what XLA's `cost_analysis()` says of one device.
    reasons: why `flops` is not `2 * macs`, with amounts.
  """

  macs: int
  flops: float
  reasons: list[str]

  def __str__(self) -> str:
    lines = [f"2 x MACs {2 * self.macs:,}, XLA's flops {self.flops:,.0f}"]
    return "\n".join([*lines, *(f"  {reason}" for reason in self.reasons)])


def flops_check(
  fn: Callable[..., Any], *args: Any, weights: int | Sequence[int] = ()
) -> FlopsCheck:
  """The MACs of `fn(*args)` beside the flops that XLA counts: a cross-check.

  No figure of a report is taken from XLA, since it sees a loop's body once.
  Compiles for the first device; runs and allocates nothing.

  Args:
    fn: as for `count`.
    *args: as for `count`.
    weights: as for `count`.

  Raises:
    errors.UserError: as `count`.
  """
  program, _, found = _count.walked(fn, args, weights=weights)
  avals = [
    jax.ShapeDtypeStruct(aval.shape, aval.dtype)
    for aval in program.jaxpr.in_avals
  ]
  run = jax.jit(core.jaxpr_as_fun(program.jaxpr))
  said: Any = run.lower(*avals).compile().cost_analysis() or {}
  flops = float(said.get("flops", 0.0))
  return FlopsCheck(sum(found.macs.values()), flops, _reasons(found))


def _reasons(report: Report) -> list[str]:
  looped = sum(r.macs - r.macs // r.repeats for r in report.layers if r.repeats)
  padded = sum(r.padded for r in report.layers)
  shared = max((r.devices for r in report.layers), default=1)
  work = sum(report.by_phase.values())
  amounts = {
    "loops: XLA counts a body once; MACs of the other trips": looped,
    "padding: XLA leaves out its pixels; MACs on them": padded,
    "element-wise: XLA counts most of it; operations of all trips": work,
    "devices: XLA counts one; they share the MACs": shared - 1 and shared,
    "not counted: primitives that the report lists": len(report.not_counted),
  }
  return [f"{why}: {n:,}" for why, n in amounts.items() if n]
