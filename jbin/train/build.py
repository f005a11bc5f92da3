"""From names to objects: what a config's names mean, by the registries."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx

from jbin import errors, registry, schedules
from jbin.train import config as config_lib, optimizers

if TYPE_CHECKING:
  from jbin import cost, data, tasks

_PLAIN = {"int": int, "float": (int, float), "bool": bool, "str": str}
_ITEMS = {"Sequence[int]": int, "Sequence[float]": (int, float)}


def call(
  family: registry.Registry, named: config_lib.Named, **offered: Any
) -> Any:
  """Calls the member `named.name` with its arguments.

  A group of keys with the name of a schedule becomes that schedule.

  Args:
    family: where to look the name up.
    named: the name and arguments, as the config has them.
    **offered: arguments to add where the member takes them and the config
      does not set them.

  Raises:
    errors.UserError: for an unknown name, an argument that the member does not
      take, lacks, or that has the wrong type.
  """
  factory = family.get(named.name)
  kwargs = {key: _schedule(item) for key, item in named.kwargs.items()}
  takes = inspect.signature(factory).parameters
  for key, item in offered.items():
    if key in takes:
      kwargs.setdefault(key, item)
  what = f"{family.family} '{named.name}'"
  _check_arguments(what, takes, kwargs)
  _check_complete(what, takes, kwargs)
  return factory(**kwargs)


def _schedule(item: Any) -> Any:
  if isinstance(item, Mapping) and item.get("name") in schedules.REGISTRY:
    rest = {key: value for key, value in item.items() if key != "name"}
    return call(schedules.REGISTRY, config_lib.Named(item["name"], rest))
  return item


def _check_arguments(
  what: str,
  takes: Mapping[str, inspect.Parameter],
  kwargs: Mapping[str, Any],
) -> None:
  known = [key for key, p in takes.items() if p.kind is not p.VAR_KEYWORD]
  for key, value in kwargs.items():
    if key not in known and len(known) == len(takes):
      near = difflib.get_close_matches(key, known, n=3, cutoff=0.6)
      hint = (
        f"did you mean {' or '.join(near)}?"
        if near
        else f"it takes {', '.join(known) or 'none'}"
      )
      raise errors.UserError(f"{what} takes no argument '{key}'; {hint}")
    annotation = takes[key].annotation if key in takes else ""
    kind = str(getattr(annotation, "__name__", annotation))
    wrong = isinstance(value, bool) and kind in ("int", "float")
    if kind in _ITEMS:
      wrong = not isinstance(value, list | tuple) or not all(
        isinstance(item, _ITEMS[kind]) for item in value
      )
    elif kind in _PLAIN:
      wrong = wrong or not isinstance(value, _PLAIN[kind])
    if wrong:
      raise errors.UserError(
        f"argument '{key}' of {what} is {value!r}; it must be of type {kind}"
      )


def _check_complete(
  what: str,
  takes: Mapping[str, inspect.Parameter],
  kwargs: Mapping[str, Any],
) -> None:
  for key, parameter in takes.items():
    if parameter.kind is parameter.VAR_KEYWORD:
      continue
    if parameter.default is inspect.Parameter.empty and key not in kwargs:
      raise errors.UserError(
        f"{what} needs the argument '{key}'; set it in the config"
      )


def check(config: config_lib.Config) -> None:
  """Raises for what the config names wrongly, also where nothing is made of it.

  Raises:
    errors.UserError: for an unknown name, or an argument that its owner does
      not take or that has the wrong type.
  """
  from jbin import data, models, tasks

  optimizer(config.optimizer)
  for family, named in (
    (models.REGISTRY, config.model),
    (data.REGISTRY, config.data),
    (tasks.REGISTRY, config.task),
  ):
    takes = inspect.signature(family.get(named.name)).parameters
    kwargs = {key: _schedule(item) for key, item in named.kwargs.items()}
    _check_arguments(f"{family.family} '{named.name}'", takes, kwargs)


def dataset(config: config_lib.Config) -> data.Dataset:
  """The data source of a config.

  Raises:
    errors.UserError: if it cannot be made, or has another `image_size`.
  """
  from jbin import data

  size = {"image_size": config.image_size} if config.image_size else {}
  made = call(data.REGISTRY, config.data, **size)
  if config.image_size and made.image_shape[0] != config.image_size:
    raise errors.UserError(
      f"config key 'image_size' is {config.image_size}, but data"
      f" '{config.data.name}' gives images of {made.image_shape}; set"
      f" image_size={made.image_shape[0]}, or 0 for the data's own"
    )
  return made


def model_maker(
  named: config_lib.Named,
  *,
  seed: int = 0,
  dtype: str = "float32",
  made_for: data.Dataset | None = None,
) -> Callable[[], nnx.Module]:
  """A function without arguments that makes the model anew.

  Args:
    named: the model and its arguments.
    seed: of its parameters and its dropout.
    dtype: of its computation, where the model takes one.
    made_for: the data; gives `num_classes` and `in_features` where the config
      does not, and is compared with them where it does.

  Raises:
    errors.UserError: if the arguments are wrong or do not fit the data.
  """
  from jbin import models

  if "dtype" in named.kwargs:
    raise errors.UserError(
      f"model '{named.name}' takes its dtype from the config; set"
      f" --config.dtype={named.kwargs['dtype']}"
    )
  offered: dict[str, Any] = {"dtype": jnp.dtype(dtype)}
  if made_for is not None:
    offered["num_classes"] = made_for.num_classes
    offered["in_features"] = made_for.image_shape[-1]
    for key in ("num_classes", "in_features"):
      if named.kwargs.get(key, offered[key]) != offered[key]:
        raise errors.UserError(
          f"model '{named.name}' has {key}={named.kwargs[key]}, but data"
          f" '{made_for.name}' needs {offered[key]}; set"
          f" --config.model.{key}={offered[key]}"
        )
  return lambda: call(models.REGISTRY, named, rngs=nnx.Rngs(seed), **offered)


def task(config: config_lib.Config) -> tasks.Task:
  """The task of a config.

  Raises:
    errors.UserError: if its arguments are wrong.
  """
  from jbin import tasks

  return call(tasks.REGISTRY, config.task)


def optimizer(settings: config_lib.Optimizer) -> optimizers.Optimizer:
  """The optimizer of a config.

  Raises:
    errors.UserError: if its arguments or those of a schedule are wrong.
  """
  rate = settings.learning_rate
  if isinstance(rate, config_lib.Named):
    rate = call(schedules.REGISTRY, rate)
  direction = config_lib.Named(settings.name, settings.kwargs)
  return optimizers.build(
    call(optimizers.REGISTRY, direction),
    rate,
    settings.weight_decay,
    settings.weight_decay_mode,
    settings.clip_norm,
  )


def cost_report(config: config_lib.Config) -> cost.Report:
  """Counts the config's model for one example; allocates no parameters.

  Raises:
    errors.UserError: if the config makes no model.
  """
  from jbin import cost

  made_for = None
  if config.image_size:  # then nothing needs to be there but the model
    shape = (config.image_size, config.image_size, _channels(config.model))
  else:
    made_for = dataset(config)
    shape = made_for.image_shape
  make = model_maker(config.model, dtype=config.dtype, made_for=made_for)
  model = evaluation_view(nnx.eval_shape(make))
  example = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
  return cost.count(model, example, name=config.model.name)


def _channels(model: config_lib.Named) -> int:
  """Channels of the model's input, as its arguments say."""
  from jbin import models

  takes = inspect.signature(models.REGISTRY.get(model.name)).parameters
  default = takes["in_features"].default if "in_features" in takes else 3
  return int(model.kwargs.get("in_features", default))


evaluation_view = functools.partial(
  nnx.view,
  deterministic=True,
  use_running_average=True,
  raise_if_not_found=False,
)
"""The twin for evaluation: no dropout, statistics stay as they are."""
