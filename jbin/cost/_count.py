"""The front door: `count`."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, SupportsIndex

from jbin import errors
from jbin.cost import _peak
from jbin.cost._record import Record, Tally
from jbin.cost._report import Report
from jbin.cost._trace import Parameter, Program, trace
from jbin.cost._walk import Place, Trips, Walker

# The usual names of a layer's weight: its layer is named by the rest.
_WEIGHT_NAMES = ("kernel", "embedding", "weight")


def count(
  fn: Callable[..., Any],
  *args: Any,
  name: str | None = None,
  weights: int | Sequence[int] = (),
  trips: int | Mapping[str, int] | None = None,
  states: int | Sequence[int] = (),
  training: bool = False,
) -> Report:
  """Counts what `fn(*args)` costs, without running or allocating anything.

  The function is traced on abstract values and its program walked: each used
  product (`dot_general`, `conv_general_dilated`, `ragged_dot`, and those of
  kernels with a registered cost) becomes a record, loops multiply, the branch
  of most ACE counts, a `shard_map` counts for all its devices, dead code is
  free, and whatever has no rule is listed in `not_counted`.
  Modules are viewed for evaluation (`deterministic`, `use_running_average`)
  unless `training`.

  ```python
  model = nnx.eval_shape(lambda: jbin.models.resnet18(rngs=nnx.Rngs(0)))
  image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
  print(jbin.cost.count(model, image).to_table())
  ```

  Args:
    fn: any JAX callable or NNX module, abstract (`nnx.eval_shape`) or not.
    *args: arrays, `jax.ShapeDtypeStruct`s, NNX modules, pytrees of these, or
      static values. Figures are for this whole input: give a batch of one for
      the cost of one example.
    name: the model's name in the report; by default that of `fn`.
    weights: positions in `args` of arrays that are parameters. Those of
      modules, and closed-over arrays of two or more axes, are known to be.
    trips: how often each `while` loop goes round, or the most it can: one
      number, or one for each loop by the name that the report gives it.
      Without it a loop is listed as not counted; `scan` and `fori_loop` with
      constant bounds need none.
    states: positions in `args` of arrays that are neither parameters nor data:
      the moments of an optimizer, a cache.
    training: whether modules stay in the mode that they are in, and products
      of parameters alone count, since the parameters change at each step.

  Raises:
    errors.UserError: if `fn` cannot be called, closes over an abstract module
      or one in training mode, if a number in `weights` or `states` is no
      position, or in both, or if `trips` names a loop that is not there or is
      no count.
  """
  return walked(
    fn,
    args,
    name,
    weights=weights,
    states=states,
    trips=trips,
    training=training,
  ).report


class Walked(NamedTuple):
  """A program, the walk through it, and what it found."""

  program: Program
  walker: Walker
  report: Report


def walked(
  fn: Callable[..., Any],
  args: Sequence[Any],
  name: str | None = None,
  *,
  trips: int | Mapping[str, int] | None = None,
  training: bool = False,
  prefixes: Mapping[int, str] | None = None,
  **named: int | Sequence[int],
) -> Walked:
  """Traces, walks and reports; arguments as `count` takes them.

  Args:
    fn: the function.
    args: its arguments.
    name: the model's name.
    trips: of the loops.
    training: whether modules stay in the mode that they are in.
    prefixes: with what the paths of an argument begin, by its position.
    **named: positions: `weights`, `states`; `donate` is only checked here.
  """
  found = {what: positions(what, given) for what, given in named.items()}
  program = trace(fn, args, found, training=training, prefixes=prefixes)
  walker = Walker(Trips(trips), training=training)
  model = name or str(getattr(fn, "__name__", type(fn).__name__))
  return Walked(program, walker, report(program, walker, model))


def positions(what: str, given: int | Sequence[int]) -> list[int]:
  """One position or several, as a list.

  Raises:
    errors.UserError: if they are not integers.
  """
  try:
    if isinstance(given, SupportsIndex):
      return [operator.index(given)]
    return [operator.index(i) for i in given]
  except TypeError as error:
    raise errors.UserError(
      f"{what}={given!r}: give the position of an argument, or several"
    ) from error


def report(program: Program, walker: Walker, model: str) -> Report:
  """Walks a program and puts together what was found."""
  used = (True,) * len(program.jaxpr.jaxpr.outvars)
  made, tally = walker.run(program.jaxpr, program.values, used, Place())
  walker.trips.check()
  parameters = dict(program.parameters)
  held = Tally()
  held.keep(tally)
  uses = held.elsewhere
  for path, constant in walker.constants.items():
    if path in uses.multiplied:
      parameters[path] = constant
    elif path in uses.read:
      parameters[path] = dataclasses.replace(constant, kind="other")
  for path in uses.multiplied:
    if parameters[path].kind == "other":
      parameters[path] = dataclasses.replace(parameters[path], kind="kernel")
  for path, bits in tally.packed.items():
    words = parameters[path]
    parameters[path] = dataclasses.replace(
      words, size=words.size * words.bits // bits, bits=bits
    )
  sizes = [math.prod(aval.shape) for aval in program.jaxpr.out_avals]
  walker.gradients.returned(made, sizes, program.results, parameters)
  return Report(
    model=model,
    inputs=[shape[1:] for shape in program.inputs],
    batch=_batch(program.inputs),
    layers=_named(
      [_attributed(r, walker, parameters) for r in tally.records],
      parameters,
      model,
    ),
    parameters=parameters,
    batch_stats=program.batch_stats,
    batch_stats_bits=program.batch_stats_bits,
    elementwise=tally.marks,
    elementwise_by_primitive=tally.elementwise,
    integers_by_primitive=tally.integers,
    on_parameters=tally.on_weights,
    by_phase=tally.phases,
    branches=tally.branches,
    lookups=tally.lookups,
    collectives=tally.collectives,
    states=program.states,
    activations=_peak.activations(program, walker),
    not_counted=tally.not_counted,
    notes=tally.notes,
    uses=uses,
  )


def _batch(inputs: Sequence[tuple[int, ...]]) -> int | None:
  """The leading size that all inputs with axes share."""
  sizes = {shape[0] for shape in inputs if shape}
  return sizes.pop() if len(sizes) == 1 else None


def _attributed(
  record: Record, walker: Walker, parameters: dict[str, Parameter]
) -> Record:
  """The record, with the parameter whose gradient it makes."""
  owner = walker.gradients.owner(record, parameters) or ""
  return dataclasses.replace(record, gradient_of=owner) if owner else record


def _named(
  records: list[Record], parameters: dict[str, Parameter], model: str
) -> list[Record]:
  """The records with their final names.

  A product by a weight is named after the layer that owns it, or after the
  weight itself where a layer has several; one of two activations after its
  place in the program, or after the weight whose gradient it makes.
  """
  owners = [r.params[0] if r.params else r.gradient_of for r in records]
  shared = Counter(_layer(path) for path in {*owners} - {""})
  places = Counter(
    r.name for r, path in zip(records, owners, strict=True) if not path
  )
  named = []
  for i, (record, path) in enumerate(zip(records, owners, strict=True)):
    if path:
      layer = _layer(path)
      name = (layer or model) if shared[layer] == 1 else path
      bias = f"{layer}/bias" if layer else "bias"
      has_bias = bias in parameters
    else:
      name, has_bias = record.name, False
      if not name or places[name] > 1:
        here = f"{record.primitive}@{i}"
        name = f"{name}/{here}" if name else here
    named.append(dataclasses.replace(record, name=name, bias=has_bias))
  return named


def _layer(path: str) -> str:
  """The layer of a parameter; "" for the model itself."""
  layer, _, last = path.rpartition("/")
  return layer if layer or last in _WEIGHT_NAMES else path
