"""From a function or module to its jaxpr, with every input's meaning."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.errors
import jax
import numpy as np
from flax import nnx
from jax.extend import core

from jbin import errors, views
from jbin.cost._blocks import full
from jbin.cost._values import Step, Value, dtype_bits

_ARRAYS = (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct)
# Kinds of parameters, as reports list them.
KINDS: tuple[str, ...] = ("kernel", "bias", "bn", "dprelu", "other")


@dataclasses.dataclass(frozen=True)
class Parameter:
  """A parameter of the program: its number of elements and its kind."""

  size: int
  kind: str
  bits: int = 32
  # Width of the dtype in which it is stored.


@dataclasses.dataclass(frozen=True)
class State:
  """A variable of a module that is no parameter and no batch statistic."""

  size: int
  kind: str
  # The class of the variable: "Cache", say.
  bits: int


@dataclasses.dataclass(frozen=True)
class Program:
  """A traced function."""

  jaxpr: core.ClosedJaxpr
  values: list[Value]
  # One for each input of the jaxpr.
  inputs: list[tuple[int, ...]]
  # Shapes of the inputs that are data.
  parameters: dict[str, Parameter]
  # By path, in the order of the program's inputs.
  batch_stats: int
  # Elements of the running statistics of batch norms.
  batch_stats_bits: int
  states: dict[str, State]
  # Other variables of modules: caches, recurrent states, counters.
  results: list[str]
  # Where each result stands in what the function returns.
  arguments: list[int]
  # For each input, the position of its argument; -1: of the function itself.


@dataclasses.dataclass
class _Inputs:
  """The flat inputs, collected one argument after another."""

  avals: list[jax.ShapeDtypeStruct] = dataclasses.field(default_factory=list)
  values: list[Value] = dataclasses.field(default_factory=list)
  shapes: list[tuple[int, ...]] = dataclasses.field(default_factory=list)
  parameters: dict[str, Parameter] = dataclasses.field(default_factory=dict)
  batch_stats: int = 0
  batch_stats_bits: int = 0
  states: dict[str, State] = dataclasses.field(default_factory=dict)
  training: bool = False
  names: dict[int, str] = dataclasses.field(default_factory=dict)
  # Of the variables so far: a module may stand in several arguments.

  def add(
    self,
    leaf: Any,
    name: str,
    *,
    path: str | None,
    data: bool,
    changes: bool = False,
  ) -> int:
    """Takes one array, a parameter if it has a path; returns its place."""
    shape = tuple(leaf.shape)
    self.avals.append(
      jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=_explicit(leaf))
    )
    what = "parameter" if path else "input" if data else "state"
    step = Step("", f"the {what} {name}", shape, str(leaf.dtype))
    self.values.append(
      Value(
        origin=path,
        data=data,
        changes=changes,
        varies=full(shape),
        step=step,
      )
    )
    if data:
      self.shapes.append(shape)
    return len(self.avals) - 1


Rebuild = Callable[[Sequence[Any]], Any]


def trace(
  fn: Callable[..., Any],
  args: Sequence[Any],
  positions: Mapping[str, Sequence[int]],
  *,
  training: bool = False,
  prefixes: Mapping[int, str] | None = None,
) -> Program:
  """Traces `fn(*args)` on abstract values; modules are viewed for evaluation.

  Args:
    fn: a function or a module.
    args: what it is called with.
    positions: of arguments: "weights", arrays that are parameters; "states",
      those that are neither parameters nor data. Others are only checked.
    training: whether modules stay in the mode that they are in.
    prefixes: with what the paths of an argument begin, by its position.

  Raises:
    errors.UserError: if `fn` cannot be called, if a position is not that of an
      argument, or that of a weight and a state, or if `fn` closes over abstract
      arrays or over a module in training mode.
  """
  _check(fn, len(args), positions, prefixes or {})
  weights, states = (positions.get(what, ()) for what in ("weights", "states"))
  bound = int(inspect.ismethod(fn) and isinstance(fn.__self__, nnx.Module))
  parts = (fn.__func__, fn.__self__, *args) if bound else (fn, *args)  # pyright: ignore[reportFunctionMemberAccess]
  modules = [
    leaf
    for part in parts
    for leaf in jax.tree.leaves(part, is_leaf=_is_module)
    if _is_module(leaf)
  ]
  inputs = _Inputs(training=training)
  alone = len(modules) + len(weights) == 1
  rebuild: list[Rebuild] = []
  arguments: list[int] = []
  for i, part in enumerate(parts, start=-1 - bound):
    role = "weight" if i in weights else "state" if i in states else "data"
    name = f"arg{i + bound}"
    prefix = "" if alone and role != "state" else name
    prefix = (prefixes or {}).get(i, prefix)
    rebuild.append(_part(part, name, prefix, inputs, role))
    arguments += [i] * (len(inputs.avals) - len(arguments))
  results: list[str] = []

  def program(*leaves: Any) -> list[Any]:
    call, *rest = (make(leaves) for make in rebuild)
    found, _ = jax.tree_util.tree_flatten_with_path(call(*rest))
    arrays = [(keys, x) for keys, x in found if _is_array(x)]
    results[:] = [_join(*_keys(keys)) for keys, _ in arrays]
    return [x for _, x in arrays]

  jaxpr = _jaxpr(program, inputs.avals)
  return Program(
    jaxpr,
    inputs.values,
    inputs.shapes,
    inputs.parameters,
    inputs.batch_stats,
    inputs.batch_stats_bits,
    inputs.states,
    results,
    arguments,
  )


def _check(
  fn: Callable[..., Any],
  n: int,
  positions: Mapping[str, Sequence[int]],
  prefixes: Mapping[int, str],
) -> None:
  """Raises for what is no function, and for positions of no argument."""
  if not callable(fn):
    raise errors.UserError(
      f"cost.count needs a function or an NNX module, got {type(fn).__name__}"
    )
  for what, given in positions.items():
    if wrong := [i for i in given if not 0 <= i < n]:
      raise errors.UserError(
        f"{what}={wrong} names no argument of {n}; give the positions of the"
        " arguments that are meant, counted from 0"
      )
  if wrong := [i for i in prefixes if not -1 <= i < n]:
    raise errors.UserError(
      f"prefixes for {wrong}: no argument of {n} is there; count from 0, or"
      " name the function itself by -1"
    )
  both = {*positions.get("weights", ())} & {*positions.get("states", ())}
  if both:
    raise errors.UserError(
      f"{sorted(both)} are both in weights and in states: a weight that changes"
      " is a weight; states are what is neither parameter nor data"
    )


def _jaxpr(
  program: Callable[..., Any], avals: Sequence[jax.ShapeDtypeStruct]
) -> core.ClosedJaxpr:
  """Traces, and says what to do about what cannot be closed over."""
  try:
    return jax.make_jaxpr(program)(*avals)
  except flax.errors.TraceContextError as error:
    raise errors.UserError(
      "the function closes over a module in training mode, which changes when"
      " it is called; give the module to cost.count as an argument of the"
      " function, or close over its nnx.view with use_running_average=True"
    ) from error
  except TypeError as error:
    if "ShapeDtypeStruct" not in str(error):
      raise
    raise errors.UserError(
      "the function closes over an abstract array or module; give it to"
      " cost.count as an argument of the function"
    ) from error


def _explicit(leaf: Any) -> jax.sharding.NamedSharding | None:
  """The sharding of an array, if its type has one that products keep to."""
  found = getattr(leaf, "sharding", None)
  if not isinstance(found, jax.sharding.NamedSharding):
    return None
  explicit = jax.sharding.AxisType.Explicit in found.mesh.axis_types
  return found if explicit else None


def _is_module(x: Any) -> bool:
  return isinstance(x, nnx.Module)


def _is_array(x: Any) -> bool:
  return isinstance(x, _ARRAYS)


def _part(
  part: Any, name: str, prefix: str, inputs: _Inputs, role: str
) -> Rebuild:
  """Registers the arrays of one argument; returns how to put it together.

  Paths begin with the prefix: the argument's name, unless it alone holds
  parameters.
  """
  leaves, tree = jax.tree_util.tree_flatten_with_path(part, is_leaf=_is_module)
  makers: list[Rebuild] = []
  for keys, leaf in leaves:
    path = _join(prefix, *_keys(keys))
    if _is_module(leaf):
      makers.append(_module(leaf, path, inputs))
    elif _is_array(leaf):
      origin = (path or name) if role == "weight" else None
      place = inputs.add(
        leaf,
        path or name,
        path=origin,
        data=role == "data",
        changes=role == "state",
      )
      size = math.prod(leaf.shape)
      if role == "state":
        kind = "others" if prefix in ("", name) else prefix
        inputs.states[path] = State(size, kind, dtype_bits(leaf.dtype))
      if origin is not None:
        inputs.parameters[origin] = Parameter(
          size, _kind_by_name(origin), dtype_bits(leaf.dtype)
        )
      makers.append(lambda xs, place=place: xs[place])
    else:
      makers.append(lambda xs, leaf=leaf: leaf)
  return lambda xs: jax.tree.unflatten(tree, [make(xs) for make in makers])


def _module(module: nnx.Module, prefix: str, inputs: _Inputs) -> Rebuild:
  """Registers the state of a module, parameters by their paths."""
  same: dict[Any, int] = {
    path: id(found)
    for path, found in nnx.iter_graph(module)
    if isinstance(found, nnx.Variable)
  }
  if not inputs.training:
    module = views.evaluation(module)
  graphdef, state = nnx.split(module)
  owners = _owners(module)
  variables: dict[Any, Any] = dict(nnx.to_flat_state(state))
  leaves, tree = jax.tree_util.tree_flatten_with_path(state)
  places: list[int] = []
  for keys, leaf in leaves:
    raw = tuple(getattr(k, "key", getattr(k, "name", None)) for k in keys)
    path = next(raw[:n] for n in range(len(raw), 0, -1) if raw[:n] in variables)
    name = _join(prefix, *map(str, path))
    known = None
    if path in same:
      known = inputs.names.get(same[path])
      name = inputs.names.setdefault(same[path], name)
    owner = _owner(owners, path)
    size = math.prod(leaf.shape)
    is_param = isinstance(variables[path], nnx.Param)
    origin = name if is_param else None
    fixed = isinstance(variables[path], nnx.Param | nnx.BatchStat)
    places.append(
      inputs.add(leaf, name, path=origin, data=False, changes=not fixed)
    )
    if known:
      continue
    if is_param:
      kind = owner or _kind_by_name(name)
      inputs.parameters[name] = Parameter(size, kind, dtype_bits(leaf.dtype))
    elif owner == "bn" and isinstance(variables[path], nnx.BatchStat):
      inputs.batch_stats += size
      inputs.batch_stats_bits += size * dtype_bits(leaf.dtype)
    else:
      kind = type(variables[path]).__name__
      inputs.states[name] = State(size, kind, dtype_bits(leaf.dtype))

  def rebuild(xs: Sequence[Any]) -> nnx.Module:
    filled = jax.tree.unflatten(tree, [xs[place] for place in places])
    return nnx.merge(graphdef, filled)

  return rebuild


def _owners(module: nnx.Module) -> dict[tuple[Any, ...], str]:
  """Paths of the modules whose parameters reports list apart."""
  found = {}
  for path, part in nnx.iter_modules(module):
    names = {cls.__name__ for cls in type(part).__mro__}
    if "BatchNorm" in names:
      found[tuple(path)] = "bn"
    elif "DPReLU" in names:
      found[tuple(path)] = "dprelu"
  return found


def _owner(
  owners: dict[tuple[Any, ...], str], path: tuple[Any, ...]
) -> str | None:
  for n in range(len(path)):
    if path[:n] in owners:
      return owners[path[:n]]
  return None


def _kind_by_name(path: str) -> str:
  last = path.rsplit("/", 1)[-1]
  return last if last in ("kernel", "bias") else "other"


def _keys(keys: Sequence[Any]) -> list[str]:
  """The parts of a path; an `nnx.Variable` is named, not its array."""
  last = jax.tree_util.GetAttrKey("value")
  return [_key(k) for k in (keys[:-1] if keys and keys[-1] == last else keys)]


def _key(key: Any) -> str:
  for attribute in ("key", "idx", "name"):
    if hasattr(key, attribute):
      return str(getattr(key, attribute))
  return str(key)


def _join(*parts: str) -> str:
  return "/".join(part for part in parts if part)
