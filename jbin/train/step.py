"""One training step: gradient in parts, update, average, and the guard.

A step is taken whole or not at all. If a metric, the gradient or a new
parameter is not finite, the state stays as it was before, so that whoever looks
later finds what led to it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from jbin import nn, optimizers, residuals, schedules, shards, tasks
from jbin.train import restore

_MEAN = 0.99  # decay of the running mean of gradient norms
_SETTLED = 20  # steps after which that mean is one to compare with


class Health(NamedTuple):
  """What the guard knows."""

  bad: Any
  # int32: the step that ends the run, or -1; none is taken from it on.
  skipped: Any
  # int32: steps that were not taken.
  norm: Any
  # float32: running mean of the gradient's norm.
  seen: Any
  # int32: finite norms in it.


class State(NamedTuple):
  """All that changes from step to step, and so all that is saved."""

  params: nnx.State
  # What is learned by gradient.
  rest: nnx.State
  # Batch statistics, quantizers' statistics, progress, dropout's random keys.
  opt_state: Any
  # The optimizer's moments and count.
  ema: Any
  # The parameters' average over the steps, or ().
  sums: tasks.Metrics
  # Running (sum, count) of each metric since the last line was written.
  health: Health

  @property
  def model(self) -> tuple[nnx.State, nnx.State]:
    """What is evaluated: parameters, averaged ones if there are, and rest."""
    return (self.ema or self.params), self.rest


class Now(NamedTuple):
  """What the host tells the device each step."""

  step: Any
  # int32: steps done after this one.
  progress: Any
  # float32: share of training done before this step.
  stop: Any
  # int32 (devices,): 1 where the process was told to stop.


class Seen(NamedTuple):
  """What a step tells the host, which reads it some steps later."""

  loss: jax.Array
  # float32.
  stop: jax.Array
  # int32: whether any process was told to stop.


class Moved(NamedTuple):
  """What a gradient and the update make of a state."""

  params: nnx.State
  rest: nnx.State
  opt_state: Any
  measured: tasks.Metrics
  loss: jax.Array


@dataclasses.dataclass(frozen=True)
class Step:
  """The pure step of a run; `program.Program` compiles it.

  Attributes:
    graphdef: the static part of the model.
    task: the loss.
    optimizer: gradients to updates.
    teacher: that of the task.
    accumulate: parts of equal size that a batch is computed in.
    ema: decay of the parameters' average, a number or a schedule; 0: none.
    skip: steps that may be left out; one more ends the run.
    spike: times its running mean that the gradient's norm may be; 0: any.
    within: traces a function with a mesh and what else is known at trace time.
  """

  graphdef: Any
  task: tasks.Task
  optimizer: optimizers.Optimizer
  teacher: restore.Teacher
  accumulate: int = 1
  ema: schedules.Hyper = 0.0
  skip: int = 0
  spike: float = 0.0
  within: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda f: f

  @property
  def averages(self) -> bool:
    """Whether the parameters are averaged."""
    return callable(self.ema) or self.ema > 0

  def start(
    self, params: nnx.State, rest: nnx.State, names: list[str]
  ) -> State:
    """The state at step 0."""
    opt_state, ema = self.optimizer.init(params), self.copied(params)
    sums, health = jax.tree.map(jnp.asarray, (empty(names), well()))
    return State(params, rest, opt_state, ema, sums, health)

  def copied(self, params: nnx.State) -> Any:
    """What the average of the parameters starts from; () if there is none."""
    return jax.tree.map(jnp.copy, params) if self.averages else ()

  def __call__(
    self,
    state: State,
    batch: Mapping[str, jax.Array],
    now: Now,
    teacher_state: Any,
  ) -> tuple[State, Seen]:
    """One step: the new state, or the old one if the guard refuses it."""
    moved = self.advance(state, batch, now, teacher_state)
    ema = state.ema
    if self.averages:
      rate = 1 - schedules.value(self.ema, now.progress)
      ema = optax.incremental_update(moved.params, state.ema, rate)
    sums = {
      name: (total + moved.measured[name][0], count + moved.measured[name][1])
      for name, (total, count) in state.sums.items()
    }
    norm = moved.measured["gradient_norm"][0]
    fine = self.is_fine(state, moved)
    old, health = state.health, self._judge(state.health, fine, norm, now.step)
    taken = fine & (old.bad < 0)
    new = State(moved.params, moved.rest, moved.opt_state, ema, sums, old)
    chosen = jax.lax.cond(taken, lambda n, o: n, lambda n, o: o, new, state)
    seen = Seen(moved.loss, jnp.max(now.stop))
    return chosen._replace(health=health), seen

  def is_fine(self, state: State, moved: Moved) -> jax.Array:
    """Whether the guard takes what a step makes of a state.

    Metrics and parameters are to be finite, and what was finite of the other
    state and the optimizer's is to stay so.
    """
    totals = [total for total, _ in moved.measured.values()]
    found = [
      (jnp.isfinite(x), names) for x, names in _named((totals, moved.params))
    ]
    news = _named((moved.rest, moved.opt_state))
    olds = _named((state.rest, state.opt_state))
    found += [
      (jnp.isfinite(new) | ~jnp.isfinite(old), names)
      for (new, names), (old, _) in zip(news, olds, strict=True)
      if jnp.issubdtype(new.dtype, jnp.inexact)
    ]
    whole = _all(found)
    if self.spike:
      norm, health = moved.measured["gradient_norm"][0], state.health
      high = norm > self.spike * health.norm
      whole &= ~((health.seen >= _SETTLED) & high)
    return whole

  def _judge(
    self, old: Health, fine: jax.Array, norm: jax.Array, step: jax.Array
  ) -> Health:
    going = old.bad < 0
    skipped = old.skipped + (going & ~fine)
    bad = jnp.where(going & (skipped > self.skip), step, old.bad)
    # A mean of all at first. It follows what is not taken, too, as far as that
    # may be: else gradients that grow for good would never be taken again.
    counts = going & (bad < 0) & jnp.isfinite(norm)
    seen = old.seen + counts
    rate = jnp.maximum(1 / jnp.maximum(seen, 1), 1 - _MEAN)
    if self.spike:
      most = self.spike * old.norm
      norm = jnp.where(old.seen >= _SETTLED, jnp.minimum(norm, most), norm)
    mean = jnp.where(counts, old.norm + rate * (norm - old.norm), old.norm)
    return Health(bad, skipped.astype(jnp.int32), mean, seen.astype(jnp.int32))

  def advance(
    self,
    state: State,
    batch: Mapping[str, jax.Array],
    now: Now,
    teacher_state: Any,
  ) -> Moved:
    """What a step makes of parameters, rest and optimizer; no guard."""
    rest = schedules.set_progress(state.rest, now.progress)
    objective = functools.partial(
      self.objective, teacher_state=teacher_state, progress=now.progress
    )
    gradient = jax.value_and_grad(objective, has_aux=True)
    if self.accumulate > 1:
      found = _in_parts(gradient, state.params, rest, batch, self.accumulate)
    else:
      found = gradient(state.params, rest, batch)
    (loss, (measured, rest)), grads = found
    params, opt_state, rate = self.optimizer.update(
      grads, state.opt_state, state.params, now.progress
    )
    one = jnp.ones((), jnp.float32)
    norm = optax.tree.norm(grads).astype(jnp.float32)
    measured = dict(measured)
    measured |= {"learning_rate": (rate, one), "gradient_norm": (norm, one)}
    return Moved(params, rest, opt_state, measured, loss)

  def objective_at(
    self, state: State, progress: Any, teacher_state: Any
  ) -> Callable[[nnx.State, Any], tuple[jax.Array, Any]]:
    """(params, batch) -> (loss, what else), as the step after `state` sees."""
    rest = schedules.set_progress(state.rest, progress)

    def objective(params: nnx.State, batch: Any) -> tuple[jax.Array, Any]:
      return self.objective(
        params, rest, batch, teacher_state=teacher_state, progress=progress
      )

    return objective

  def objective(
    self,
    params: nnx.State,
    rest: nnx.State,
    batch: Mapping[str, jax.Array],
    *,
    teacher_state: Any,
    progress: jax.typing.ArrayLike,
  ) -> tuple[jax.Array, tuple[tasks.Metrics, nnx.State]]:
    """The loss of a batch, its metrics, and the model's other state after."""
    # A copy: what is not differentiated would else belong to the outer trace
    # and could not be updated in this one.
    model = nnx.merge(self.graphdef, params, rest, copy=True)
    asked = self.teacher.model(teacher_state)
    loss, measured = self.task.loss(model, batch, asked, progress)
    return loss, (measured, restore.split(model)[2])


def _in_parts(
  gradient: Callable[..., Any],
  params: nnx.State,
  rest: nnx.State,
  batch: Mapping[str, jax.Array],
  parts: int,
) -> Any:
  """As `gradient`, of a batch in parts, which see `rest` one after another.

  Loss and gradient are the mean of the parts' by the counts of the metric
  "loss" (examples; predicted tokens for a language model).
  """
  # Part i has the rows i, i + parts, ...: each device has its share of each.
  split = {
    name: jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0)
    for name, x in batch.items()
  }
  first = {name: x[0] for name, x in split.items()}
  _, (measured, _) = jax.eval_shape(gradient, params, rest, first)[0]
  zeros = functools.partial(jax.tree.map, lambda x: jnp.zeros(x.shape, x.dtype))

  def one(carry: Any, part: Any) -> tuple[Any, None]:
    rest, grads, total, sums = carry
    (loss, (measured, new)), grad = gradient(params, rest, part)
    count = measured["loss"][1]
    grads = jax.tree.map(lambda a, g: a + count * g, grads, grad)
    sums = jax.tree.map(jnp.add, sums, measured)
    new = jax.tree.map(_alike, new, rest)
    return (new, grads, total + count * loss, sums), None

  start = (rest, zeros(params), jnp.zeros((), jnp.float32), zeros(measured))
  (rest, grads, total, sums), _ = jax.lax.scan(one, start, split)
  count = jnp.maximum(sums["loss"][1], 1.0)
  grads = jax.tree.map(lambda g: (g / count).astype(g.dtype), grads)
  return (total / count, (sums, rest)), grads


def _named(tree: Any) -> list[tuple[Any, Any]]:
  """Arrays, each with the names of its axes, or None."""
  nodes = jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, nnx.Variable))
  return [
    (x, nn.axis_names(node)) for node in nodes for x in jax.tree.leaves(node)
  ]


def _all(found: Iterable[tuple[jax.Array, Any]]) -> jax.Array:
  """Whether all is true in these arrays, which come with names of axes.

  Those of one shape and names lie on the mesh alike and are one reduction: XLA
  on CPU compiles each by itself, hundreds of them for longer than the model.
  """
  groups: dict[Any, jax.Array] = {}
  for x, names in found:
    key = (x.shape, names)
    groups[key] = groups[key] & x if key in groups else x
  return jnp.stack([x.all() for x in groups.values()]).all()


def _alike(x: jax.Array, old: jax.Array) -> jax.Array:
  return x if x.dtype == old.dtype else x.astype(old.dtype)


def empty(names: list[str]) -> dict[str, Any]:
  """(sum, count) of each metric before anything was measured, for the host."""
  return {name: (np.float32(0), np.float32(0)) for name in names}


def well() -> Health:
  """What the guard knows before the first step, for the host."""
  return Health(np.int32(-1), np.int32(0), np.float32(0), np.int32(0))


def within(
  mesh: Mesh, keep: residuals.Keep, gather: shards.Gather
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
  """What is known at trace time, for `Step.within`.

  Args:
    mesh: of the devices.
    keep: what low-bit layers keep for gradients, see `residuals.keeping`.
    gather: how kernels of 1 bit cross the mesh, see `shards.within`.
  """

  def traced(function: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any) -> Any:
      with residuals.keeping(keep):
        return function(*args)

    return shards.within(mesh, run, gather)

  return traced
