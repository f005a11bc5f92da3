"""What values that are not finite go back to: a program, evaluated again.

Equation by equation; each value that is not finite remembers its cause: the
equation that made it of others, or the argument that had it already.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

# Equations that call a program on their own operands.
_CALLS = (
  *("jit", "closed_call", "call", "remat2", "checkpoint", "custom_lin"),
  *("custom_jvp_call", "custom_vjp_call"),
)
_FINE, _INF, _NAN = range(3)


@dataclasses.dataclass(frozen=True)
class Cause:
  """What a value that is not finite goes back to.

  Attributes:
    said: a sentence without its full stop.
    order: smaller is earlier; arguments are before all equations.
    meant: whether it is a constant of the program.
  """

  said: str
  order: int
  meant: bool = False


@dataclasses.dataclass(frozen=True)
class Known:
  """A value of the program, and what is known of it."""

  value: Any
  state: int = _FINE
  cause: Cause | None = None
  parameter: str = ""  # what it is made of alone
  layer: tuple[int, str] = (-1, "")  # whose parameter it met last, and when

  def row(self, i: int) -> Known:
    """That of one trip of a scan."""
    value = self.value[i]
    state = _state(value)
    name = f"{self.parameter}[{i}]" if self.parameter else ""
    cause = self.cause if state else None
    return dataclasses.replace(
      self, value=value, state=state, cause=cause, parameter=name
    )


# --- Values -------------------------------------------------------------------


@jax.jit
def _look(x: jax.Array) -> jax.Array:
  nan, finite = jnp.any(jnp.isnan(x)), jnp.all(jnp.isfinite(x))
  return jnp.where(nan, _NAN, jnp.where(finite, _FINE, _INF))


def _state(x: Any) -> int:
  """Whether it has NaN, infinities, or neither."""
  dtype = getattr(x, "dtype", None)
  if dtype is None or not jnp.issubdtype(dtype, jnp.inexact):
    return _FINE
  return int(_look(x))


@jax.jit
def _count(x: jax.Array) -> jax.Array:
  return jnp.sum(~jnp.isfinite(x), dtype=jnp.int32)


@jax.jit
def _largest(x: jax.Array) -> jax.Array:
  size = jnp.abs(x.astype(jnp.float32))
  return jnp.max(jnp.where(jnp.isfinite(size), size, 0), initial=0)


def argument(name: str, leaf: Any, is_parameter: bool) -> Known:
  """A parameter or an input, with what is to be said of it."""
  state = _state(leaf)
  cause = None
  if state:
    n = int(_count(leaf))
    values = f"{n} of {leaf.size} values not finite"
    cause = Cause(
      f"parameter '{name}' is not finite already: {values}"
      if is_parameter
      else f"input '{name}' of the batch has {values}",
      -1,
    )
  return Known(leaf, state, cause, name if is_parameter else "")


def _constant(value: Any) -> Known:
  state = _state(np.asarray(value) if np.isscalar(value) else value)
  cause = Cause("a constant of the program is not finite", -1, meant=True)
  return Known(value, state, cause if state else None)


# --- The walk -----------------------------------------------------------------


class Walk:
  """Evaluates programs, and numbers the equations as it meets them."""

  def __init__(self) -> None:
    self.order = 0

  def run(
    self,
    jaxpr: core.Jaxpr,
    consts: Sequence[Any],
    args: Sequence[Known],
    where: str = "",
  ) -> list[Known]:
    """The results of a program; `where` names the loops around it."""
    env: dict[core.Var, Known] = dict(zip(jaxpr.invars, args, strict=True))
    env.update(zip(jaxpr.constvars, map(_constant, consts), strict=True))
    last = _last_uses(jaxpr)

    def read(var: Any) -> Known:
      return _constant(var.val) if isinstance(var, core.Literal) else env[var]

    for i, eqn in enumerate(jaxpr.eqns):
      operands = [read(var) for var in eqn.invars]
      env.update(
        zip(eqn.outvars, self.step(jaxpr, eqn, operands, where), strict=True)
      )
      for var in last.get(i, ()):
        env.pop(var, None)
    return [read(var) for var in jaxpr.outvars]

  def step(
    self,
    jaxpr: core.Jaxpr,
    eqn: core.JaxprEqn,
    operands: list[Known],
    where: str,
  ) -> list[Known]:
    """One equation: as a whole, and from within if that is not finite."""
    self.order += 1
    values = _evaluate(jaxpr, eqn, [known.value for known in operands])
    states = [_state(value) for value in values]
    if any(states) and (inside := self.inside(eqn, operands, where)):
      return inside
    layer, parameter = self._met(operands)
    made = []
    for value, state in zip(values, states, strict=True):
      cause = self._cause(eqn, operands, state, layer, where)
      made.append(Known(value, state, cause, parameter, layer))
    return made

  def _met(self, operands: list[Known]) -> tuple[tuple[int, str], str]:
    """The layer that an equation belongs to, and if it makes a parameter."""
    met = [known.parameter for known in operands if known.parameter]
    rest = [
      known
      for known in operands
      if not known.parameter and np.ndim(known.value)
    ]
    if met:
      return (self.order, met[0]), "" if rest else met[0]
    return max((known.layer for known in operands), default=(-1, "")), ""

  def _cause(
    self,
    eqn: core.JaxprEqn,
    operands: list[Known],
    state: int,
    layer: tuple[int, str],
    where: str,
  ) -> Cause | None:
    """That of an operand, or this equation."""
    if state == _FINE:
      return None
    given = [known for known in operands if known.cause is not None]
    same = [known.cause for known in given if known.state >= state]
    causes = sorted((c for c in same if c), key=lambda c: (c.meant, c.order))
    if causes:
      return causes[0]
    name = _called(eqn.primitive.name, layer, self.order)
    phase = ", in the backward pass," if _is_backward(eqn) else ""
    what = "NaN" if state == _NAN else "inf"
    said = f"{name}{where}{phase} gives {what}"
    infinite = [known.cause for known in given if known.cause]
    if infinite:
      first = min(infinite, key=lambda c: (c.meant, c.order))
      return Cause(f"{said} from infinite operands: {first.said}", self.order)
    floats = [known.value for known in operands if _is_float(known.value)]
    sizes = [f"{float(_largest(x)):.3g} ({x.dtype})" for x in floats]
    most = f", at most {' and '.join(sizes)}" if sizes else ""
    return Cause(f"{said} from finite operands{most}", self.order)

  # --- What has programs inside -----------------------------------------------

  def inside(
    self, eqn: core.JaxprEqn, operands: list[Known], where: str
  ) -> list[Known] | None:
    """The results, evaluated from within; None if there is no way in."""
    name, params = eqn.primitive.name, eqn.params
    if name == "scan":
      return self._scan(eqn, operands, where)
    if name == "while":
      return self._while(eqn, operands, where)
    if name == "cond":
      index, *rest = operands
      branches = params["branches"]
      chosen = branches[int(np.clip(int(index.value), 0, len(branches) - 1))]
      return self.run(chosen.jaxpr, chosen.consts, rest, where)
    if name not in _CALLS:
      return None
    for inner in params.values():
      if isinstance(inner, core.ClosedJaxpr):
        body, consts = inner.jaxpr, inner.consts
      elif isinstance(inner, core.Jaxpr):
        body, consts = inner, ()
      else:
        continue
      if len(body.invars) == len(operands):
        return self.run(body, consts, operands, where)
    return None

  def _scan(
    self, eqn: core.JaxprEqn, operands: list[Known], where: str
  ) -> list[Known]:
    p = eqn.params
    body, length = p["jaxpr"], p["length"]
    n, m = p["num_consts"], p["num_consts"] + p["num_carry"]
    consts, carry, rows = operands[:n], operands[n:m], operands[m:]
    trips = range(length)
    stacks: list[list[Known]] = [[] for _ in body.jaxpr.outvars[m - n :]]
    for i in reversed(trips) if p["reverse"] else trips:
      given = [*consts, *carry, *(known.row(i) for known in rows)]
      here = f"{where} in trip {i} of {length}"
      made = self.run(body.jaxpr, body.consts, given, here)
      carry = made[: m - n]
      for stack, known in zip(stacks, made[m - n :], strict=True):
        stack.append(known)
    ordered = [stack[::-1] if p["reverse"] else stack for stack in stacks]
    return [*carry, *map(_stacked, ordered)]

  def _while(
    self, eqn: core.JaxprEqn, operands: list[Known], where: str
  ) -> list[Known]:
    p = eqn.params
    n, m = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]
    test, body = p["cond_jaxpr"], p["body_jaxpr"]
    carry, trip = operands[m:], 0
    goes = lambda: self.run(test.jaxpr, test.consts, [*operands[:n], *carry])
    while bool(goes()[0].value):
      given = [*operands[n:m], *carry]
      here = f"{where} in trip {trip}"
      carry = self.run(body.jaxpr, body.consts, given, here)
      trip += 1
    return carry


def _evaluate(
  jaxpr: core.Jaxpr, eqn: core.JaxprEqn, values: list[Any]
) -> list[Any]:
  """The results of one equation; those that nothing reads are None."""
  variables = [v for v in eqn.invars if not isinstance(v, core.Literal)]
  given = {
    var: value
    for var, value in zip(eqn.invars, values, strict=True)
    if not isinstance(var, core.Literal)
  }
  wanted = [v for v in eqn.outvars if not isinstance(v, core.DropVar)]
  alone = jaxpr.replace(
    constvars=[],
    invars=list(dict.fromkeys(variables)),
    outvars=wanted,
    eqns=[eqn],
    debug_info=core.DebugInfo("diagnose", eqn.primitive.name, None, None),
  )
  function = core.jaxpr_as_fun(core.ClosedJaxpr(alone, ()))
  made = iter(function(*given.values()))
  return [
    None if isinstance(var, core.DropVar) else next(made) for var in eqn.outvars
  ]


def _last_uses(jaxpr: core.Jaxpr) -> dict[int, list[core.Var]]:
  """What can be forgotten after each equation."""
  last: dict[core.Var, int] = {}
  for i, eqn in enumerate(jaxpr.eqns):
    for var in (*eqn.invars, *eqn.outvars):
      if not isinstance(var, core.Literal):
        last[var] = i
  found: dict[int, list[core.Var]] = {}
  kept = {v for v in jaxpr.outvars if not isinstance(v, core.Literal)}
  for var, i in last.items():
    if var not in kept:
      found.setdefault(i, []).append(var)
  return found


def _stacked(rows: list[Known]) -> Known:
  worst = max(rows, key=lambda known: (known.state, -_order(known)))
  if rows[0].value is None:
    return worst
  values = jnp.stack([known.value for known in rows])
  layer = max(known.layer for known in rows)
  return Known(values, worst.state, worst.cause, "", layer)


def _order(known: Known) -> int:
  return known.cause.order if known.cause else -1


# --- Names --------------------------------------------------------------------


def _called(primitive: str, layer: tuple[int, str], now: int) -> str:
  """An equation by its layer, or the one that the data came through last."""
  when, path = layer
  if not path:
    return f"'{primitive}' before the first layer"
  name, _, last = path.rpartition("/")
  name = name or last
  if when == now:
    return f"layer '{name}' ({primitive})"
  return f"'{primitive}' after layer '{name}'"


def _is_backward(eqn: core.JaxprEqn) -> bool:
  return "transpose(" in str(eqn.source_info.name_stack)


def _is_float(x: Any) -> bool:
  return (
    hasattr(x, "dtype")
    and bool(x.size)
    and jnp.issubdtype(x.dtype, jnp.floating)
  )
