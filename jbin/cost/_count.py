"""The front door: `count`."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jbin.cost._record import Record
from jbin.cost._report import Report
from jbin.cost._trace import Parameter, trace
from jbin.cost._walk import Place, Trips, Walker

# The usual names of a layer's weight: its layer is named by the rest.
_WEIGHT_NAMES = ("kernel", "embedding", "weight")


def count(
  fn: Callable[..., Any],
  *args: Any,
  name: str | None = None,
  weights: int | Sequence[int] = (),
  trips: int | Mapping[str, int] | None = None,
) -> Report:
  """Counts what `fn(*args)` costs, without running or allocating anything.

  The function is traced on abstract values and its program walked: each used
  `dot_general` and `conv_general_dilated` becomes a record, loops multiply,
  dead code is free, and whatever has no rule is listed in `not_counted`.
  Modules are viewed for evaluation (`deterministic`, `use_running_average`).

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
      number, or one for each place as the report lists them. Without it a
      loop is listed as not counted; `scan` and `fori_loop` with constant
      bounds need none.

  Raises:
    errors.UserError: if `fn` cannot be called, closes over an abstract module
      or one in training mode, if a number in `weights` is no
      position, or if `trips` names a loop that is not there.
  """
  chosen = [weights] if isinstance(weights, int) else list(weights)
  program = trace(fn, args, chosen)
  walker = Walker(Trips(trips))
  used = (True,) * len(program.jaxpr.jaxpr.outvars)
  _, tally = walker.run(program.jaxpr, program.values, used, Place())
  walker.trips.check()
  model = name or str(getattr(fn, "__name__", type(fn).__name__))
  parameters = dict(program.parameters)
  for path in {path for r in tally.records for path in r.params}:
    if path in walker.constants:
      parameters[path] = walker.constants[path]
    elif parameters[path].kind == "other":
      parameters[path] = dataclasses.replace(parameters[path], kind="kernel")
  return Report(
    model=model,
    inputs=[shape[1:] for shape in program.inputs],
    layers=_named(tally.records, parameters, model),
    parameters=parameters,
    batch_stats=program.batch_stats,
    elementwise=tally.marks,
    elementwise_by_primitive=tally.elementwise,
    on_parameters=tally.on_weights,
    by_phase=tally.phases,
    branches=tally.branches,
    lookups=[look for look in tally.lookups if look.path in parameters],
    collectives=tally.collectives,
    states=program.states,
    not_counted=tally.not_counted,
    notes=tally.notes,
  )


def _named(
  records: list[Record], parameters: dict[str, Parameter], model: str
) -> list[Record]:
  """The records with their final names.

  A product by a weight is named after the layer that owns it, or after the
  weight itself where a layer has several; one of two activations after its
  place in the program.
  """
  weights = {r.params[0] for r in records if r.params}
  shared = Counter(_layer(path) for path in weights)
  places = Counter(r.name for r in records if not r.params)
  named = []
  for i, record in enumerate(records):
    if record.params:
      path = record.params[0]
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
