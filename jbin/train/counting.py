"""What a config costs: its model, one decoded token, or a training step."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jbin import cost, errors, views
from jbin.train import build, config as config_lib, sharding


def cost_report(
  config: config_lib.Config, *, param_dtype: str = ""
) -> cost.Report:
  """Counts the config's model for one example; allocates no parameters.

  Args:
    config: the run.
    param_dtype: in which parameters of 32 bits are stored, as those of
      language models are in "bfloat16"; "": as they are trained.

  Raises:
    errors.UserError: if the config makes no model.
  """
  model, inputs = build.abstract_model(config)
  model = _stored(views.evaluation(model), param_dtype)
  return cost.count(model, *inputs, name=config.model.name)


def decoding_report(
  config: config_lib.Config, *, param_dtype: str = ""
) -> cost.Report:
  """Counts one token of a language model, after those that its cache holds.

  The cache has room for `config.length` tokens; an attention looks at all of
  it. The cache is among the states of the report.

  Args:
    config: the run.
    param_dtype: as for `cost_report`.

  Raises:
    errors.UserError: if the config makes no language model.
  """
  model, (tokens, *_) = build.abstract_model(config)
  if not hasattr(model, "init_cache"):
    raise errors.UserError(
      f"model '{config.model.name}' decodes no tokens; a language model does,"
      " such as 'mamba2' or 'llama'"
    )
  model = _stored(views.evaluation(model), param_dtype)
  cache = jax.eval_shape(lambda: model.init_cache(1, tokens.shape[1]))  # pyright: ignore[reportAttributeAccessIssue]

  def step(model: Any, token: jax.Array, cache: Any) -> Any:
    return model(token, cache=cache)

  token = jax.ShapeDtypeStruct((1, 1), jnp.int32)
  name = f"{config.model.name}, one token"
  return cost.count(step, model, token, cache, name=name, states=2)


def training_report(
  config: config_lib.Config, *, compiled: bool = False
) -> cost.Report:
  """Counts one whole training step of a config, for its batch size.

  The step is the loop's own: forward, recompute, backward and update, with the
  most bytes that it keeps at once. Nothing is allocated.

  Args:
    config: the run.
    compiled: whether the step is compiled as well, for the config's mesh: then
      XLA's memory figures and the transfers between devices are there too.

  Raises:
    errors.UserError: if the config makes no run, or there are too few devices
      for its mesh.
  """
  from jbin.train import program

  step = program.of(config)
  found = step.report(config.model.name)
  if not compiled:
    return found
  mesh = sharding.of(config.mesh)
  sharding.check_batch("batch_size", config.batch_size, mesh)
  made = step.compile(mesh)
  assert found.training is not None
  peak = found.training.peak
  training = cost.Training(
    peak=peak,
    memory=cost.compare_memory(peak, made, mesh.size),
    communication=cost.communication(made, mesh) if mesh.size > 1 else None,
  )
  return dataclasses.replace(found, training=training)


def _stored(model: nnx.Module, dtype: str) -> nnx.Module:
  """The abstract model, with parameters of 32 bits in another type."""
  if not dtype:
    return model
  known = ("float32", "bfloat16", "float16")
  if dtype not in known:
    raise errors.UnknownName("param_dtype", dtype, known)
  chosen = jnp.dtype(dtype)

  def store(leaf: Any) -> Any:
    if leaf.dtype != jnp.float32:
      return leaf
    return jax.ShapeDtypeStruct(leaf.shape, chosen)

  graphdef, params, rest = nnx.split(model, nnx.Param, ...)
  return nnx.merge(graphdef, jax.tree.map(store, params), rest)
