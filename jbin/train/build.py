"""From names to objects: what a config's names mean, by the registries."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from flax import nnx

from jbin import errors, optimizers, schedules
from jbin.train import calling, config as config_lib, making, regularized

if TYPE_CHECKING:
  from jbin import data, tasks

call = calling.call
_LEARNED = "wordpiece"  # the tokenizer that the texts themselves make


def check(config: config_lib.Config) -> None:
  """Raises for what the config names wrongly, also where nothing is made of it.

  Raises:
    errors.UserError: for an unknown name, or an argument that its owner does
      not take or that has the wrong type.
  """
  from jbin import convert, data, models, tasks

  optimizer(config.optimizer)
  hyper(config.ema, "ema", 1)
  for key, family, named in (
    ("model", models.REGISTRY, config.model),
    ("rules", convert.REGISTRY, config.rules),
    ("data", data.REGISTRY, config.data),
    ("task", tasks.REGISTRY, config.task),
  ):
    with _at(f"{key}.name"):
      takes = inspect.signature(family.get(named.name)).parameters
    what = f"{family.family} '{named.name}'"
    kwargs = calling.resolved(what, named.kwargs)
    calling.check_arguments(what, takes, kwargs)
  if config.regularizer.name != "none":
    _regularizer(config.regularizer)


def dataset(config: config_lib.Config) -> data.Dataset:
  """The data source of a config.

  Raises:
    errors.UserError: if it cannot be made, or has another `image_size` or
      `length`.
  """
  from jbin import data

  sizes = {"image_size": config.image_size, "length": config.length}
  sizes = {key: size for key, size in sizes.items() if size}
  made = call(data.REGISTRY, config.data, **sizes)
  has = {"image_size": "image", "length": "tokens"}
  for key, size in sizes.items():
    feature = made.features.get(has[key])
    if feature is None:
      raise errors.UserError(
        f"config key '{key}' is {size}, but data '{config.data.name}' gives"
        f" {', '.join(made.features)}; leave it out"
      )
    if feature.shape[0] != size:
      what = "images" if key == "image_size" else "texts"
      raise errors.UserError(
        f"config key '{key}' is {size}, but data '{config.data.name}' gives"
        f" {what} of {feature.shape}; set {key}={feature.shape[0]}, or 0 for"
        " the data's own"
      )
  return made


def words(
  config: config_lib.Config,
) -> tuple[making.Sizes, data.Tokenizer]:
  """What a language model is made for, and its tokenizer.

  The texts are read only if the tokenizer learns from them.

  Raises:
    errors.UserError: if the data are no texts, or they cannot be had.
  """
  from jbin import data

  takes = inspect.signature(data.REGISTRY.get(config.data.name)).parameters
  given = {key: p.default for key, p in takes.items()} | {**config.data.kwargs}
  name = given.get("tokenizer", _LEARNED)
  if name == _LEARNED:
    made_for = dataset(config)
    if made_for.tokenizer is None:
      raise errors.UserError(
        f"data '{config.data.name}' is no text, and has no tokenizer; take"
        " 'text'"
      )
    return made_for, made_for.tokenizer()
  found = data.read_tokenizer(name)
  length = config.length or given["length"]
  size = given["vocab_size"] or found.size
  offers = {"vocab_size": size, "max_length": length}
  tokens = {"tokens": data.Feature((length,), np.int32)}
  return making.ByConfig("config", tokens, offers), found


def task(config: config_lib.Config) -> tasks.Task:
  """The task of a config, with its regularizer.

  Raises:
    errors.UserError: if the arguments of either are wrong.
  """
  from jbin import regularizers

  made = call_task(config)
  if config.regularizer.name == "none":
    return made
  takes, kwargs = _regularizer(config.regularizer)
  what = f"regularizer '{config.regularizer.name}'"
  calling.check_complete(what, takes, kwargs)
  function = regularizers.REGISTRY.get(config.regularizer.name)
  return regularized.Regularized(made, function, kwargs)


def call_task(config: config_lib.Config) -> tasks.Task:
  """The task of a config alone.

  Raises:
    errors.UserError: if its arguments are wrong.
  """
  from jbin import tasks

  return call(tasks.REGISTRY, config.task)


def _regularizer(
  named: config_lib.Named,
) -> tuple[Mapping[str, inspect.Parameter], Mapping[str, Any]]:
  """What a regularizer takes beside weights, and what the config gives."""
  from jbin import regularizers

  with _at("regularizer.name"):
    function = regularizers.REGISTRY.get(named.name)
  _, *rest = inspect.signature(function).parameters.items()
  what = f"regularizer '{named.name}'"
  kwargs = calling.resolved(what, named.kwargs)
  calling.check_arguments(what, dict(rest), kwargs)
  return dict(rest), kwargs


def hyper(
  setting: float | config_lib.Named, key: str, most: float = math.inf
) -> schedules.Hyper:
  """A number, or the schedule that a config names.

  Args:
    setting: of the config.
    key: of the config, for messages.
    most: what a schedule may reach; the least is 0.

  Raises:
    errors.UserError: naming the config key, if its arguments are wrong, or a
      value of it is.
  """
  if not isinstance(setting, config_lib.Named):
    return setting
  with _at(key):
    made: Any = call(schedules.REGISTRY, setting)
    for progress in np.linspace(0, 1, 11, dtype=np.float32):
      value = float(schedules.value(made, progress))
      if not 0 <= value <= most:
        limit = f"from 0 to {most:g}" if most < math.inf else "0 or more"
        given = calling.listed(setting.kwargs)
        raise errors.UserError(
          f"schedule {setting.name}({given}) is {value:.4g} at progress"
          f" {progress:.2g}; it must be {limit} throughout"
        )
  return made


@contextlib.contextmanager
def _at(key: str) -> Generator[None]:
  """Names the config key in what is wrong with its value.

  Raises:
    errors.UserError: for one that is raised inside.
  """
  try:
    yield
  except errors.UserError as error:
    raise errors.UserError(f"config key '{key}': {error}") from error


def optimizer(
  settings: config_lib.Optimizer, model: nnx.Module | None = None
) -> optimizers.Optimizer:
  """The optimizer of a config.

  Args:
    settings: its part of the config.
    model: abstract or not; it says which parameters are latent weights. None:
      only the settings are checked, and no parameter is latent.

  Raises:
    errors.UserError: if its arguments or those of a schedule are wrong, or
      they ask for latent weights that the model has not.
  """
  rate = hyper(settings.learning_rate, "optimizer.learning_rate")
  percent = hyper(settings.shrink_percent, "optimizer.shrink_percent", 50)
  with _at("optimizer.name"):
    role = optimizers.role(settings.name)
  method = config_lib.Named(settings.name, settings.kwargs)
  _check_roles(settings, role)

  def latents(what: str, most_bits: int) -> Any:
    if model is None:
      return False
    mask = optimizers.latent_mask(model, most_bits)
    if not any(jax.tree.leaves(mask)):
      raise errors.UserError(
        f"{what} is for latent weights of {_WIDTHS[most_bits]}, and the model"
        " has none; leave it out, or give layers a kernel_quantizer"
      )
    return mask

  after = []
  others = method if role == "direction" else settings.others
  flips = flipped = None
  if role == "flips":
    flipped = latents(f"optimizer '{settings.name}'", 1)
    flips = call(optimizers.REGISTRY, method, mask=flipped)
  if role == "after":
    mask = latents(f"optimizer '{settings.name}'", 2)
    after = [call(optimizers.REGISTRY, method, mask=mask, learning_rate=rate)]
  if percent:
    mask = latents("optimizer.shrink_percent", 2)
    after.append(optimizers.shrink_latents(percent, mask))
  if settings.clip_latents:
    mask = latents("optimizer.clip_latents", 2)
    after.append(optimizers.clip_latents(settings.clip_latents, mask))
  decay: Any = optimizers.decayed
  if settings.decay != "kernels" and model is not None:
    if settings.decay == "latents" and settings.weight_decay:
      latents("optimizer.decay='latents'", 8)
    decay = optimizers.decay_mask(model, settings.decay)
  return optimizers.build(
    call(optimizers.REGISTRY, others),
    rate,
    settings.weight_decay,
    settings.weight_decay_mode,
    settings.clip_norm,
    decay=decay,
    flips=flips,
    flipped=flipped,
    after=after,
  )


_WIDTHS = {1: "1 bit", 2: "1 or 2 bits", 8: "1 to 8 bits"}


def _check_roles(settings: config_lib.Optimizer, role: str) -> None:
  """Raises for settings of an optimizer that contradict each other."""
  name = settings.name
  if "mask" in settings.kwargs:
    raise errors.UserError(
      f"optimizer '{name}' takes no argument 'mask' from a config; leave it out"
    )
  if role == "direction" and settings.others != config_lib.Named("adam"):
    raise errors.UserError(
      f"optimizer '{name}' is of all parameters, so optimizer.others has no"
      " meaning; leave it out"
    )
  with _at("optimizer.others.name"):
    others = optimizers.role(settings.others.name)
  if others != "direction":
    raise errors.UserError(
      f"optimizer.others is '{settings.others.name}', which is for latent"
      " weights only; set 'adam', 'adamw' or 'sgd'"
    )
  if role == "flips":
    for key in ("clip_latents", "shrink_percent"):
      if getattr(settings, key):
        raise errors.UserError(
          f"optimizer '{name}' keeps weights at -1 and 1; leave"
          f" optimizer.{key} out"
        )
    if settings.decay == "latents" and settings.weight_decay:
      raise errors.UserError(
        f"optimizer '{name}' takes no weight decay on latent weights; set"
        " optimizer.decay to 'kernels' or 'float'"
      )


def abstract_model(
  config: config_lib.Config, *, with_rules: bool = True
) -> tuple[nnx.Module, tuple[jax.ShapeDtypeStruct, ...]]:
  """The config's model, and what it is called with for one example; no arrays.

  Raises:
    errors.UserError: if the config makes no model.
  """
  made_for = sizes(config)
  make = making.maker(
    config.model,
    config.rules if with_rules else None,
    dtype=config.dtype,
    made_for=made_for,
  )
  return making.abstract(make), making.example(made_for)


def sizes(config: config_lib.Config) -> making.Sizes:
  """What the model is made for: by the config's sizes, else by the data.

  With `image_size` or `length` nothing needs to be there but the model, if that
  says how many classes and words it has.

  Raises:
    errors.UserError: if the data is needed and cannot be made.
  """
  from jbin import data

  if _left_to_data(config.model):
    return dataset(config)
  if config.image_size:
    shape = (config.image_size, config.image_size, _channels(config.model))
    offers = {"image_size": config.image_size}
    return making.ByConfig("config", data.image_features(shape), offers)
  if config.length:
    task = call_task(config)
    features = {
      name: feature
      for name, feature in data.text_features(config.length).items()
      if name in task.inputs
    }
    for name in task.targets:
      shape = (config.length,) if name == "targets" else ()
      # One answer is a number, which is regressed.
      number = name == "label" and config.model.kwargs.get("num_classes") == 1
      number = number or name == "target_bytes"
      kind = np.float32 if number else np.int32
      features[name] = data.Feature(shape, kind)
    offers = {"max_length": config.length}
    return making.ByConfig("config", features, offers)
  return dataset(config)


def _takes(model: config_lib.Named) -> Mapping[str, inspect.Parameter]:
  from jbin import models

  return inspect.signature(models.REGISTRY.get(model.name)).parameters


def _left_to_data(model: config_lib.Named) -> bool:
  """Whether the model has as many classes or words as the data."""
  sizes = {"num_classes", "vocab_size"} & {*_takes(model)}
  return bool(sizes - {*model.kwargs})


def _channels(model: config_lib.Named) -> int:
  """Channels of the model's input, as its arguments say."""
  takes = _takes(model)
  default = takes["in_features"].default if "in_features" in takes else 3
  return int(model.kwargs.get("in_features", default))
