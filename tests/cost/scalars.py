"""A program run number by number: how many multiplications its products take.

Products are worked out by loops over Python numbers that count, all else by
JAX; a product's result is compared with JAX's, so none can be left out.
"""

from __future__ import annotations

import itertools
from typing import Any

import jax
import numpy as np
from jax.extend import core

_CALLS = ("jaxpr", "call_jaxpr", "fun_jaxpr", "call")


class Number:
  """A scalar that counts the multiplications of all scalars."""

  made = 0

  def __init__(self, value):
    self.value = value

  def __mul__(self, other):
    Number.made += 1
    return Number(self.value * other.value)

  def __add__(self, other):
    return Number(self.value + other.value)


_number = np.vectorize(Number, otypes=[object])
_value = np.vectorize(lambda n: n.value, otypes=[float])


def multiplications(fn, *args) -> int:
  """How many scalar multiplications the products of `fn(*args)` take."""
  program = jax.make_jaxpr(fn)(*args)
  before = Number.made
  _run(program, jax.tree.leaves(args))
  return Number.made - before


def _run(jaxpr: Any, args: list[Any]) -> list[Any]:
  closed = isinstance(jaxpr, core.ClosedJaxpr)
  body = jaxpr.jaxpr if closed else jaxpr
  env = dict(zip(body.constvars, jaxpr.consts if closed else (), strict=True))
  env |= zip(body.invars, args, strict=True)

  def read(var):
    return var.val if isinstance(var, core.Literal) else env[var]

  for eqn in body.eqns:
    made = _equation(eqn, [read(v) for v in eqn.invars])
    env |= zip(eqn.outvars, made, strict=True)
  return [read(v) for v in body.outvars]


def _equation(eqn: core.JaxprEqn, args: list[Any]) -> list[Any]:
  name, params = eqn.primitive.name, eqn.params
  if name == "scan":
    return _scan(params, args)
  if name == "cond":
    which, *rest = args
    return _run(params["branches"][int(which)], rest)
  if name == "while":
    return _while(params, args)
  inner = next((params[key] for key in _CALLS if key in params), None)
  if isinstance(inner, core.Jaxpr | core.ClosedJaxpr):
    return _run(inner, args)
  found = eqn.primitive.bind(*args, **params)
  if name in _PRODUCTS:
    numbers = [_number(np.asarray(x, float)) for x in args[:2]]
    own = _value(_PRODUCTS[name](params, *numbers, *args[2:]))
    np.testing.assert_allclose(own, np.asarray(found, float), 1e-4, 1e-4)
  return found if eqn.primitive.multiple_results else [found]


def _scan(params: dict[str, Any], args: list[Any]) -> list[Any]:
  n, m = params["num_consts"], params["num_consts"] + params["num_carry"]
  consts, carry, rows = args[:n], args[n:m], args[m:]
  given = []
  trips = range(params["length"])
  for i in reversed(trips) if params["reverse"] else trips:
    made = _run(params["jaxpr"], [*consts, *carry, *(x[i] for x in rows)])
    carry = made[: m - n]
    given.append(made[m - n :])
  if params["reverse"]:
    given.reverse()
  return [*carry, *(np.stack(each) for each in zip(*given, strict=True))]


def _while(params: dict[str, Any], args: list[Any]) -> list[Any]:
  n = params["cond_nconsts"]
  m = n + params["body_nconsts"]
  carry = args[m:]
  while _run(params["cond_jaxpr"], [*args[:n], *carry])[0]:
    carry = _run(params["body_jaxpr"], [*args[n:m], *carry])
  return carry


def _dot(params, lhs, rhs):
  (left, right), (batch, other) = params["dimension_numbers"]
  a, b = _letters(lhs.ndim), _letters(rhs.ndim, lhs.ndim)
  for i, j in zip((*left, *batch), (*right, *other), strict=True):
    b[j] = a[i]
  kept = [a[i] for i in batch]
  kept += [c for i, c in enumerate(a) if i not in (*left, *batch)]
  kept += [c for i, c in enumerate(b) if i not in (*right, *other)]
  return _einsum(f"{''.join(a)},{''.join(b)}->{''.join(kept)}", lhs, rhs)


def _letters(n, start=0):
  return [chr(ord("a") + start + i) for i in range(n)]


def _einsum(form, lhs, rhs):
  """By loops over all indices: one multiplication each."""
  inputs, output = form.split("->")
  names = inputs.split(",")
  sizes = {}
  for name, x in zip(names, (lhs, rhs), strict=True):
    sizes |= zip(name, x.shape, strict=True)
  found = _number(np.zeros([sizes[c] for c in output]))
  for place in itertools.product(*(range(n) for n in sizes.values())):
    at = dict(zip(sizes, place, strict=True))
    x, y, z = (tuple(at[c] for c in name) for name in (*names, output))
    found[z] = found[z] + lhs[x] * rhs[y]
  return found


def _conv(params, lhs, rhs):
  """By loops over results and taps; padding is a number too, holes are not."""
  numbers = params["dimension_numbers"]
  lhs, rhs = lhs.transpose(numbers.lhs_spec), rhs.transpose(numbers.rhs_spec)
  features, batches = params["feature_group_count"], params["batch_group_count"]
  window, each = rhs.shape[2:], rhs.shape[0] // (features * batches)
  sizes = []
  for i, taps in enumerate(window):
    length = (lhs.shape[2 + i] - 1) * params["lhs_dilation"][i] + 1
    length += sum(params["padding"][i])
    wide = (taps - 1) * params["rhs_dilation"][i] + 1
    sizes.append((length - wide) // params["window_strides"][i] + 1)
  n = lhs.shape[0] // batches
  out = _number(np.zeros((n, rhs.shape[0], *sizes)))
  for place in itertools.product(*map(range, sizes)):
    for tap in itertools.product(*map(range, window)):
      at = _element(params, lhs.shape[2:], place, tap)
      if at is None:
        continue
      for row, channel in itertools.product(range(n), range(rhs.shape[0])):
        group = channel // each
        rows = row if batches == 1 else group * n + row
        inner = rhs.shape[1]
        first = 0 if features == 1 else group * inner
        for c in range(inner):
          x = lhs[(rows, first + c, *at)] if at != "padding" else Number(0.0)
          w = rhs[(channel, c, *tap)]
          target = (row, channel, *place)
          out[target] = out[target] + x * w
  return out.transpose(np.argsort(numbers.out_spec))


def _element(params, sizes, place, tap):
  """Which element a tap falls on; "padding", or None in a hole."""
  found = []
  for i, size in enumerate(sizes):
    at = place[i] * params["window_strides"][i]
    at += tap[i] * params["rhs_dilation"][i] - params["padding"][i][0]
    whole, rest = divmod(at, params["lhs_dilation"][i])
    if rest:
      return None
    found.append(whole if 0 <= whole < size else None)
  return "padding" if None in found else tuple(found)


def _ragged(params, lhs, rhs, sizes):
  """Each row with the matrix of its group, or each group of a sum alone."""
  numbers = params["ragged_dot_dimension_numbers"]
  (left, right), (batch, other) = numbers.dot_dimension_numbers
  (ragged,) = numbers.lhs_ragged_dimensions
  ends = np.cumsum(np.asarray(sizes))
  if ragged in batch:
    return _dot(
      {"dimension_numbers": ((left, right), (batch, other))}, lhs, rhs
    )
  parts = []
  for group, end in enumerate(ends):
    rows = slice(end - sizes[group], end)
    part = np.moveaxis(np.moveaxis(lhs, ragged, 0)[rows], 0, ragged)
    if ragged in left:
      axis = right[left.index(ragged)]
      own = np.moveaxis(np.moveaxis(rhs, axis, 0)[rows], 0, axis)
      parts.append(
        _dot({"dimension_numbers": ((left, right), (batch, other))}, part, own)
      )
    else:
      (axis,) = numbers.rhs_group_dimensions
      own = np.take(rhs, group, axis)
      move = lambda dims, axis=axis: tuple(d - (d > axis) for d in dims)
      dims = ((left, move(right)), (batch, move(other)))
      parts.append(_dot({"dimension_numbers": dims}, part, own))
  return np.stack(parts) if ragged in left else np.concatenate(parts)


_PRODUCTS = {
  "dot_general": _dot,
  "conv_general_dilated": _conv,
  "ragged_dot_general": _ragged,
}
