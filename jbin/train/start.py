"""What parameters start from: an earlier run, or pretrained weights."""

from __future__ import annotations

import difflib
import functools
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jbin import data, errors, nn, schedules
from jbin.train import config as config_lib

_SHOWN = 5  # paths in an error
# Progress and random streams are of this run.
_OWN = (nnx.RngState, schedules.Progress)


def variables(model: nnx.Module) -> Iterator[tuple[str, nnx.Variable[Any]]]:
  """Path ("a/b/c") and variable of all that a model may start with."""
  for path, node in nnx.iter_graph(model):
    if isinstance(node, nnx.Variable) and not isinstance(node, _OWN):
      yield "/".join(map(str, path)), node


def put(model: nnx.Module, values: Mapping[str, Any]) -> nnx.Module:
  """The model, with these values at the paths that it has."""
  for path, variable in variables(model):
    if path in values:
      old = variable.get_value()
      variable.set_value(jnp.asarray(values[path], old.dtype))
  return model


def load(
  settings: config_lib.Start,
  written: nnx.Module,
  model: nnx.Module,
  source: data.Dataset,
  say: Callable[[str], None],
) -> dict[str, np.ndarray]:
  """The values by path; empty if the config names no source.

  A model that keeps its parameters in another form than its source (an
  attention that has other projections) may have a method `adapt(values)`,
  which gives them in its own.

  Args:
    settings: where they come from.
    written: the model before rules, abstract.
    model: the same after them.
    source: the data, whose words have to be those that the run learned.
    say: is told of the step that a run is at.

  Raises:
    errors.UserError: if there is no such source, or it does not fit: the
      message names what is missing, what is left over, and shapes; or if
      `fresh` names nothing, or all.
  """
  fresh = (settings.fresh,) if settings.fresh else ()
  if settings.weights:
    from jbin import pretrained

    return pretrained.load(
      settings.weights, written, fresh=fresh, resize=settings.resize
    )
  if not settings.workdir:
    return {}
  learned, measured, info = of_run(Path(settings.workdir))
  done, steps = info["step"], info["config"]["steps"]
  say(f"starts from step {done} of {steps} of {settings.workdir}")
  check_vocabulary(info, source.name, source.tokenizer, settings.workdir)
  wanted = dict(variables(model))
  # Of what is not learned a model takes what it has: random streams are not.
  found = learned | {p: x for p, x in measured.items() if p in wanted}
  adapt: Callable[..., Any] | None = getattr(written, "adapt", None)
  if adapt is not None:
    found = dict(adapt(found))
  kept = {
    path: value
    for path, value in found.items()
    if not any(re.fullmatch(pattern, path) for pattern in fresh)
  }
  _check_fresh(settings, {*found} | {*wanted}, kept)
  _check(settings, kept, written, model)
  return kept


def check_vocabulary(
  info: Mapping[str, Any],
  name: str,
  tokenizer: Callable[[], data.Tokenizer] | None,
  workdir: str | Path,
) -> None:
  """Raises if a run's words had other numbers than those of the data.

  Args:
    info: what a checkpoint says; those without texts say nothing.
    name: of the data.
    tokenizer: gives the data's; None: it has no texts.
    workdir: of the run, for the message.

  Raises:
    errors.UserError: if so.
  """
  was = info.get("vocabulary")
  if was and tokenizer is not None and tokenizer().digest != was:
    raise errors.UserError(
      f"{workdir} learned another vocabulary than data '{name}' has: the"
      " same number is another word; give both the same texts to learn it from"
      " (data.vocab_files) or the same data.tokenizer"
    )


def _check_fresh(
  settings: config_lib.Start, paths: set[str], kept: Mapping[str, Any]
) -> None:
  """Raises if `start.fresh` names no path, or nothing is left beside it."""
  if not settings.fresh:
    return
  key = f"config key 'start.fresh': {settings.fresh!r}"
  if not any(re.fullmatch(settings.fresh, path) for path in paths):
    near = difflib.get_close_matches(settings.fresh, sorted(paths), n=3)
    hint = f"; near it: {', '.join(near)}" if near else ""
    raise errors.UserError(
      f"{key} matches no path of the model nor of {settings.workdir}{hint};"
      " it is a regular expression of whole paths, such as head/.*"
    )
  if not kept:
    raise errors.UserError(
      f"{key} leaves nothing of {settings.workdir} to start from; name less, or"
      " leave start.workdir out"
    )


def of_run(
  workdir: Path,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], Mapping[str, Any]]:
  """What the model of a run has learned, and its other state, by path.

  What it has learned is its average over the steps, if the run makes one.
  The third is what the checkpoint says of itself.

  Raises:
    errors.UserError: if it has no checkpoint.
  """
  from jbin.train import checkpoint  # loads Orbax, which counting must not

  say = functools.partial(print, file=sys.stderr)
  checkpoints = checkpoint.Checkpoints(workdir / "checkpoints", say=say)
  here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

  def targets(info: Mapping[str, Any]) -> dict[str, Any]:
    return {
      name: {key: _abstract(text, here) for key, text in arrays.items()}
      for name, arrays in info["arrays"].items()
      if name in ("model", "ema")
    }

  try:
    found = checkpoints.restore(targets)
  finally:
    checkpoints.close()
  if found is None:
    raise errors.UserError(
      f"config key 'start.workdir': no checkpoint in"
      f" {workdir / 'checkpoints'}; train it first: jbin train --config=..."
      f" --workdir={workdir}"
    )
  groups: dict[str, dict[str, np.ndarray]] = {"params": {}, "rest": {}}
  for key, array in jax.device_get(found[1]["model"]).items():
    group, _, path = key.partition(".")  # of params.blocks.0.kernel
    groups[group][path.replace(".", "/")] = array
  for path, array in jax.device_get(found[1].get("ema", {})).items():
    groups["params"][path.replace(".", "/")] = array
  return groups["params"], groups["rest"], found[0]


def _abstract(text: str, where: Any) -> jax.ShapeDtypeStruct:
  """Of "float32[3, 4]"."""
  dtype, _, shape = text.partition("[")
  return jax.ShapeDtypeStruct(
    json.loads(f"[{shape}"), jnp.dtype(dtype), sharding=where
  )


def _check(
  settings: config_lib.Start,
  found: Mapping[str, np.ndarray],
  written: nnx.Module,
  model: nnx.Module,
) -> None:
  """Raises if something is missing, left over or of another shape."""
  wanted = dict(variables(model))
  # What quantizers and hashes hold starts from kernels and the first batch,
  # else.
  needed = {
    path
    for path, variable in variables(written)
    if not isinstance(variable, nn.HashState)
  }
  if settings.fresh:
    needed = {p for p in needed if not re.fullmatch(settings.fresh, p)}
  missing, more = sorted(needed - {*found}), sorted({*found} - {*wanted})
  shapes = [
    f"{path} {found[path].shape} there, {tuple(wanted[path].shape)} here"
    for path in sorted({*found} & {*wanted})
    if found[path].shape != tuple(wanted[path].shape)
  ]
  lines = [
    f"{what}: {', '.join(items[:_SHOWN])}"
    + (f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else "")
    for what, items in (
      ("missing there", missing),
      ("of no use here", more),
      ("of another shape", shapes),
    )
    if items
  ]
  if lines:
    near = difflib.get_close_matches((missing or [""])[0], more, n=1)
    hint = f"; is {missing[0]} called {near[0]} there?" if near else ""
    raise errors.UserError(
      f"config key 'start.workdir': {settings.workdir} does not fit this model:"
      f" {'; '.join(lines)}{hint}; what shall start anew, or stay behind, is"
      " named by start.fresh, a regular expression of paths"
    )
