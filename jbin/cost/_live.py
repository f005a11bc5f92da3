"""Which equations of a program are used: dead code costs nothing.

A layer may hand a product both the float value of an operand and its codes;
the program that makes the value is dead if the product reads the codes only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jax.extend import core

from jbin.cost import _primitives

Flags = tuple[bool, ...]
# For each equation: which of its results are used; None: it is dead.
Uses = list[Flags | None]


def open_jaxpr(jaxpr: Any) -> core.Jaxpr:
  """The jaxpr itself, of a closed one too."""
  return jaxpr.jaxpr if isinstance(jaxpr, core.ClosedJaxpr) else jaxpr


def constants(jaxpr: Any) -> Sequence[Any]:
  """The arrays that a closed jaxpr carries."""
  return jaxpr.consts if isinstance(jaxpr, core.ClosedJaxpr) else ()


def inner_jaxpr(eqn: core.JaxprEqn) -> Any | None:
  """The jaxpr that an equation calls on its own operands, if it does that."""
  key = _primitives.CALLS.get(eqn.primitive.name)
  if key is None or key not in eqn.params:
    return None
  inner = eqn.params[key]
  body = open_jaxpr(inner)
  fits = len(body.invars) == len(eqn.invars)
  fits = fits and len(body.outvars) == len(eqn.outvars)
  return inner if fits else None


def branches(eqn: core.JaxprEqn) -> list[Any]:
  """The jaxprs of a `cond` that count.

  Of `jax.lax.platform_dependent`, the one of platforms that have none of their
  own: what is counted does not depend on where it is.
  """
  every = list(eqn.params["branches"])
  platforms = eqn.params.get("branches_platforms") or ()
  return [every[platforms.index(None)]] if None in platforms else every


class Liveness:
  """Finds, and remembers, what a jaxpr uses for given results."""

  def __init__(self):
    self._known: dict[tuple[int, Flags], tuple[Flags, Uses]] = {}

  def uses(self, jaxpr: core.Jaxpr, outs: Flags) -> tuple[Flags, Uses]:
    """Which inputs matter, and which equations, for the results in `outs`."""
    key = (id(jaxpr), outs)
    if key not in self._known:
      self._known[key] = self._find(jaxpr, outs)
    return self._known[key]

  def _find(self, jaxpr: core.Jaxpr, outs: Flags) -> tuple[Flags, Uses]:
    live = {
      var
      for var, used in zip(jaxpr.outvars, outs, strict=True)
      if used and not isinstance(var, core.Literal)
    }
    uses: Uses = [None] * len(jaxpr.eqns)
    for i in reversed(range(len(jaxpr.eqns))):
      eqn = jaxpr.eqns[i]
      used = tuple(var in live for var in eqn.outvars)
      if not any(used) and not eqn.effects:
        continue
      uses[i] = used
      for var, needed in zip(eqn.invars, self.needs(eqn, used), strict=True):
        if needed and not isinstance(var, core.Literal):
          live.add(var)
    return tuple(var in live for var in jaxpr.invars), uses

  def needs(self, eqn: core.JaxprEqn, used: Flags) -> Flags:
    """Which operands of an equation matter for its used results."""
    if (inner := inner_jaxpr(eqn)) is not None:
      return self.uses(open_jaxpr(inner), used)[0]
    if eqn.primitive.name == "cond":
      each = [self.uses(open_jaxpr(b), used)[0] for b in branches(eqn)]
      return (True, *(any(flags) for flags in zip(*each, strict=True)))
    if eqn.primitive.name == "scan":
      return self.scan(eqn, used)[0]
    if eqn.primitive.name == "while":
      return self.loop(eqn, used)[0]
    return (True,) * len(eqn.invars)

  def scan(self, eqn: core.JaxprEqn, used: Flags) -> tuple[Flags, Flags]:
    """What a scan needs, and which results of its body matter."""
    body = open_jaxpr(eqn.params["jaxpr"])
    consts, carries = eqn.params["num_consts"], eqn.params["num_carry"]
    ins, outs = self._settled(body, used, consts, carries)
    # The first value of a carry is read if the carry matters at all.
    return (*ins[:consts], *outs[:carries], *ins[consts + carries :]), outs

  def loop(self, eqn: core.JaxprEqn, used: Flags) -> tuple[Flags, Flags]:
    """What a while needs, and which results of its body matter."""
    n_test, n_body = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    test = self.uses(open_jaxpr(eqn.params["cond_jaxpr"]), (True,))[0]
    outs = tuple(a or b for a, b in zip(used, test[n_test:], strict=True))
    body = open_jaxpr(eqn.params["body_jaxpr"])
    ins, outs = self._settled(body, outs, n_body, len(outs))
    return (*test[:n_test], *ins[:n_body], *outs), outs

  def _settled(
    self, body: core.Jaxpr, outs: Flags, consts: int, carries: int
  ) -> tuple[Flags, Flags]:
    """Which inputs and results of a loop's body matter.

    A carry matters if its last value is used or if a later trip reads it.
    """
    while True:
      ins = self.uses(body, outs)[0]
      again = ins[consts : consts + carries]
      more = tuple(
        flag or (i < carries and again[i]) for i, flag in enumerate(outs)
      )
      if more == outs:
        return ins, outs
      outs = more
