"""What several tests make of programs, and read of them.

Equations, tags, how often one is traced; one for a single run, one exported.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import pytest
from jax.extend import core

from jbin import bits


class Jit:
  """`jax.jit` of a function (or `nnx.jit`), and how often it was traced.

  A jitted function tells how many programs it holds only through a private
  name, which forgets once thousands of others have run.
  """

  def __init__(
    self,
    function: Callable[..., Any],
    jit: Callable[..., Any] = jax.jit,
    **options: Any,
  ):
    self.traces = 0

    @functools.wraps(function)
    def traced(*args: Any, **kwargs: Any) -> Any:
      self.traces += 1
      return function(*args, **kwargs)

    self._jitted = jit(traced, **options)

  def __call__(self, *args: Any, **kwargs: Any) -> Any:
    return self._jitted(*args, **kwargs)


def once(function: Callable[..., Any]) -> Callable[..., Any]:
  """`jax.jit` for a single run: XLA does not optimise, half of its time."""
  return jax.jit(
    function, compiler_options={"xla_backend_optimization_level": 0}
  )


def exported(function: Callable[..., Any], *args: Any) -> Callable[..., Any]:
  """`function` and its gradient, from their bytes, for arguments like `args`.

  Skips the test where flatbuffers, which JAX writes them with, is missing.
  """
  pytest.importorskip("flatbuffers", reason="an exported program's format")
  from jax import export

  program = export.export(jax.jit(function))(*args)
  return export.deserialize(program.serialize(vjp_order=1)).call


def _inside(value: Any) -> Iterator[core.Jaxpr]:
  """The jaxprs in one parameter of an equation."""
  if isinstance(value, core.ClosedJaxpr):
    yield value.jaxpr
  elif isinstance(value, core.Jaxpr):
    yield value
  elif isinstance(value, (list, tuple)):
    for entry in value:
      yield from _inside(entry)


def _walk(jaxpr: core.Jaxpr) -> Iterator[core.JaxprEqn]:
  for equation in jaxpr.eqns:
    yield equation
    for value in equation.params.values():
      for inner in _inside(value):
        yield from _walk(inner)


def equations(function: Callable[..., Any], *args: Any) -> list[core.JaxprEqn]:
  """Every equation of a function, those inside other equations too."""
  return list(_walk(jax.make_jaxpr(function)(*args).jaxpr))


def tags(function: Callable[..., Any], *args: Any) -> list[Any]:
  """(what the tag says, the tagged value's abstract value), in order."""
  found = []
  for equation in equations(function, *args):
    if equation.primitive.name == "name":
      said = bits.parse(equation.params["name"])
      found.append((said, equation.outvars[0].aval))
  return found


def compiled_text(function: Callable[..., Any], *args: Any) -> str:
  """The program as XLA has optimised it, without where it comes from."""
  text = jax.jit(function).lower(*args).compile().as_text()
  _, _, program = text.partition("\n\n\n")
  return program or text
