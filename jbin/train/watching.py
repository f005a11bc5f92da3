"""Watching a run from beside it: `watch.jsonl`, totals, and one warning.

What is watched at a step is worked out by a program of its own, from the state
before that step. The step is the same program whether it is watched or not:
watching changes no number of a run, and other steps cost what they did.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from jbin import nn, optimizers, schedules, watch
from jbin.train import (
  config as config_lib,
  metrics,
  restore,
  sharding,
  step as step_lib,
)

FILE = "watch.jsonl"


class _Recorder(NamedTuple):
  """An optimizer that gives the gradients in place of its new state."""

  optimizer: optimizers.Optimizer

  def update(
    self, grads: Any, state: Any, params: Any, progress: Any
  ) -> tuple[Any, Any, jax.Array]:
    params, _, rate = self.optimizer.update(grads, state, params, progress)
    return params, grads, rate


class Watcher:
  """Looks at every so many steps, and writes what it sees."""

  def __init__(
    self,
    settings: config_lib.Watch,
    model: nnx.Module,
    step: step_lib.Step,
    mesh: Mesh,
  ):
    """Compiles nothing yet; a model without quantizers is not watched.

    Args:
      settings: how often, and with what.
      model: the model, abstract.
      step: the loop's own.
      mesh: the run's devices.
    """
    self._model = model
    self._inputs = watch.quantized_inputs(model)
    self._weights = nn.latents(model)
    self._every = settings.every if self._inputs or self._weights else 0
    self._file: metrics.JsonLines | None = None
    self._found: Any = None
    self._last: tuple[int, dict[str, float]] = (0, {})
    self._warned = False
    graph = nnx.graphdef(model)
    recorder: Any = _Recorder(step.optimizer)

    def look(state: Any, batch: Any, now: Any, teacher: Any) -> Any:
      whole = nnx.merge(graph, state.params, state.rest, copy=True)
      seeing, params, rest = restore.split(watch.twin(whole))
      if step.accumulate > 1:
        seeing, rest = _with_counters(
          step, seeing, (params, rest), batch, teacher
        )
      looked = dataclasses.replace(step, graphdef=seeing, optimizer=recorder)
      seen = state._replace(params=params, rest=rest)
      new = looked.advance(seen, batch, now, teacher)
      rest = schedules.set_progress(state.rest, now.progress)
      before = nnx.merge(graph, state.params, rest, copy=True)
      layers = watch.measure(
        before, state.params, new.opt_state, new.params, settings.o
      )
      # What the guard refuses did not happen. (Of the other state it knows
      # nothing here: this twin has counters in it.)
      taken = new._replace(rest=seen.rest, opt_state=seen.opt_state)
      shares = watch.shares(new.rest, self._inputs)
      return layers, shares, step.is_fine(seen, taken)

    where = sharding.replicated(mesh)
    self._look = jax.jit(step.within(look), out_shardings=where)

  def open(self, workdir: Path, step: int) -> None:
    """Goes on in the file after `step`; without a call nothing is written."""
    path = workdir / FILE
    if not self._every and not path.exists():
      return
    self._file = metrics.JsonLines(path, step)
    lines = path.read_text(encoding="utf-8").splitlines()
    if lines:
      record = json.loads(lines[-1])
      self._last = (record["step"], watch.total(_weighed(record["layers"])))

  def is_due(self, step: int) -> bool:
    """Whether the step that comes as that number is watched."""
    return bool(self._every) and step % self._every == 0

  def look(self, *args: Any) -> None:
    """Looks at the step to come.

    Args:
      *args: what the step will be called with; nothing is donated.
    """
    self._found = self._look(*args)

  def after(self, step: int) -> None:
    """Writes what was seen, and warns once; call it after the step."""
    if self._found is None:
      return
    layers, inputs, fine = jax.device_get(self._found)
    self._found = None
    if self._file is None or not fine:
      return
    lines = self._layers(layers, inputs)
    self._file.scalars(step, "train", {"layers": lines})
    self._last = (step, watch.total(_weighed(lines)))
    if not self._warned:
      self._warned = watch.warn_one_sided(self._model, inputs, stacklevel=3)

  def totals(self, step: int, log_every: int) -> dict[str, float]:
    """Over all layers, from the last watched step since the last log line."""
    watched, totals = self._last
    return totals if watched > (step - 1) // log_every * log_every else {}

  def close(self) -> None:
    """Closes the file."""
    if self._file is not None:
      self._file.close()

  def _layers(
    self,
    layers: Mapping[str, Mapping[str, Any]],
    inputs: Mapping[str, Any],
  ) -> dict[str, dict[str, float]]:
    """One dict for each layer, in the model's order, of plain numbers."""
    found: dict[str, dict[str, float]] = {}
    for path, part in self._weights.items():
      name = watch.label(path, "kernel")
      if name in layers:  # is trained by gradient
        found[name] = {"bits": part.spec.bits}
        found[name] |= {key: _plain(x) for key, x in layers[name].items()}
    widths = {each.label: each.bits for each in self._inputs.values()}
    for name, share in inputs.items():
      layer = found.setdefault(name, {})
      layer["input_bits"] = widths[name.split("[")[0]]
      layer["input_share"] = _plain(share)
    return found


def _with_counters(
  step: step_lib.Step, graphdef: Any, model: Any, *asked: Any
) -> tuple[Any, nnx.State]:
  """The watching model's static part and other state, counters among it.

  Quantizers make their counters in the first call, and the carry of a scan over
  the parts of a batch cannot grow.

  Args:
    step: of the run.
    graphdef: the static part before.
    model: (parameters, other state).
    *asked: batch and teacher's state.
  """
  after: list[Any] = []

  def call(params: Any, rest: Any, batch: Any, teacher: Any) -> nnx.State:
    whole = nnx.merge(graphdef, params, rest, copy=True)
    step.task.loss(whole, batch, step.teacher.model(teacher), 0.0)
    found, _, rest = restore.split(whole)
    after.append(found)
    return rest

  shapes = jax.eval_shape(call, *model, *asked)
  there = dict(nnx.to_flat_state(model[1]))
  filled = [
    (path, there[path] if path in there else jax.tree.map(_zeros, leaf))
    for path, leaf in nnx.to_flat_state(shapes)
  ]
  return after[0], nnx.from_flat_state(filled)


def _zeros(x: Any) -> jax.Array:
  return jnp.zeros(x.shape, x.dtype)


def _weighed(layers: Mapping[str, Any]) -> dict[str, Any]:
  return {name: layer for name, layer in layers.items() if "weights" in layer}


def _plain(number: Any) -> float:
  """With as few digits as tell this float32 from others."""
  return float(str(number))
