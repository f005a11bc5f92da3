"""The config: a `ConfigDict` becomes typed and frozen here, once.

Below this border nothing sees a config, only arguments.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any

from jbin import errors
from jbin.train import valid

_REST = {"rest": True}


@dataclasses.dataclass(frozen=True)
class Named:
  """A member of a registry, and what to call it with."""

  name: str
  # Its name in the registry of its family; see `jbin list`.
  kwargs: Mapping[str, Any] = dataclasses.field(
    default_factory=dict, metadata=_REST
  )
  # All other keys: its keyword arguments.


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """How gradients become updates."""

  name: str
  # "adam", "sgd", "bop", ...; see `jbin list optimizers`.
  learning_rate: float | Named
  # A number, or a schedule of progress: {name: "cosine", start: 0.1, ...}.
  # Of "bop": that of `others`.
  weight_decay: float = 0.0
  # Factor; over the parameters that `decay` says.
  weight_decay_mode: str = "decoupled"
  # "l2": gradient of 0.5 * weight_decay * sum w^2, goes through the optimizer;
  # "decoupled": w -= learning_rate * weight_decay * w, beside it.
  decay: str = "kernels"
  # "kernels": parameters of two axes and more, biases and scales apart;
  # "float": those of them without a quantizer; "latents": those with one;
  # "learned": kernels, and what quantizers learn (PACT's bounds); "all": every
  # parameter.
  clip_norm: float = 0.0
  # Largest global norm of the gradient; 0: no clipping.
  clip_latents: float = 0.0
  # Keeps latent weights of 1 and 2 bits in [-clip_latents, clip_latents] after
  # each update; BinaryConnect's in H times that. 0: no clipping.
  shrink_percent: float | Named = 0.0
  # SiMaN's percent, 0 to 50, of the same weights; a number or a schedule. 0:
  # they are not shrunk, nor centred.
  others: Named = Named("adam")
  # Beside "bop" the optimizer of all that it does not flip; before "proxquant"
  # that of all parameters. With its arguments.
  kwargs: Mapping[str, Any] = dataclasses.field(
    default_factory=dict, metadata=_REST
  )
  # All other keys: arguments of that optimizer (b1, momentum, ...).


@dataclasses.dataclass(frozen=True)
class Mesh:
  """How the devices are arranged; one axis may be -1: all that are left."""

  data: int = -1
  # Devices along which only the batch is split.
  fsdp: int = 1
  # Devices along which parameters, optimizer and batch are split.
  tensor: int = 1
  # Devices along which the features of layers are split, where a model names
  # them (language models do); they share a batch.
  sequence: int = 1
  # Devices along which the tokens of a text are split, between the layers of
  # models that can (transformers on text); they share a batch.
  gather: str = "packed"
  # How 1-bit kernels that `fsdp` splits come together: "packed", their signs
  # as bits; "floats", as they are. The numbers are the same, but for the order
  # of sums.


@dataclasses.dataclass(frozen=True)
class Guard:
  """What happens to a step whose numbers are not finite."""

  skip: int = 0
  # So many such steps of a run are left out, and counted in the metrics; the
  # next one stops it. 0: the first one does.
  spike: float = 0.0
  # From the 21st on, a gradient norm of more than so many times its running
  # mean is one of them; 0: however large, it is taken.


@dataclasses.dataclass(frozen=True)
class Profile:
  """The steps that JAX's profiler looks at; written to DIR/profile."""

  first: int = 0
  # The first of them; 0: none.
  last: int = 0
  # The last of them; 0: the first alone.


@dataclasses.dataclass(frozen=True)
class Watch:
  """What low-bit layers do while they train; changes nothing of it."""

  every: int = 0
  # Steps between looks, each a step's work more; 0: never.
  o: float = 3.0
  # Power of ReSTE's estimator in `estimating_error`, 1 or more.


@dataclasses.dataclass(frozen=True)
class Start:
  """What parameters start from, where not from random numbers."""

  workdir: str = ""
  # A finished run: the parameters of its newest good checkpoint, by path.
  weights: str = ""
  # Pretrained ones: a .safetensors file, a folder or a name of the hub.
  fresh: str = ""
  # Regular expression of paths that start anew, or stay behind ("head/.*").
  resize: bool = False
  # Whether pretrained tables of positions are made to fit other images.


@dataclasses.dataclass(frozen=True)
class Config:
  """One run."""

  steps: int
  # Training steps in all.
  batch_size: int
  # Examples in a step, over all devices and hosts.
  model: Named
  # A model of `jbin list models`, with its arguments.
  data: Named
  # A data source of `jbin list data`, with its arguments.
  optimizer: Optimizer
  # Optimizer, learning rate, weight decay, clipping.
  rules: Named = Named("none")
  # A rule set of `jbin list rules`, with its arguments: what makes the model
  # low-bit. "none": the model as it is written.
  task: Named = Named("classification")
  # A task of `jbin list tasks`, with its arguments.
  regularizer: Named = Named("none")
  # What the loss adds for latent weights of 1 and 2 bits: one of `jbin list
  # regularizers`, with its arguments. "none": nothing.
  start: Start = Start()
  # What the float model's parameters start from; rules come after it.
  mesh: Mesh = Mesh()
  # Devices by axis.
  accumulate: int = 1
  # Parts of equal size that a batch is computed in, one after another: less
  # memory, the same gradient. Batch statistics are those of a part.
  ema: float | Named = 0.0
  # Decay of an average of the parameters over the steps, which evaluation and
  # whoever starts from the run take; a number or a schedule. 0: none.
  guard: Guard = Guard()
  # Steps that are not finite.
  residuals: str = "bits"
  # What binary layers keep for the backward pass: "bits", signs and windows;
  # "floats", what they were made of. The gradients are the same.
  seed: int = 0
  # Of parameters, dropout, data order and augmentation.
  image_size: int = 0
  # Pixels along a side; 0: the data set's own.
  length: int = 0
  # Tokens of a text; 0: the data set's own.
  dtype: str = "float32"
  # Of the computation, "float32" or "bfloat16"; parameters are float32.
  eval_batch_size: int = 0
  # Examples in an evaluation step; 0: as batch_size.
  log_every: int = 50
  # Steps; a line in metrics.jsonl is the mean over them.
  eval_every: int = 0
  # Steps between evaluations; 0: at the end only.
  checkpoint_every: int = 1000
  # Steps between checkpoints; 0: at the end only.
  keep: int = 3
  # Checkpoints kept, the newest ones.
  workers: int = 0
  # Processes on each host that read data ahead; 0: one thread does.
  tensorboard: bool = False
  # Also write events for TensorBoard (needs the extra `tensorboard`).
  watch: Watch = Watch()
  # Whether watch.jsonl is written: flips, gradients and scales of each layer.
  profile: Profile = Profile()
  # Steps to profile.
  compile_cache: str = ""
  # A folder where compiled programs are kept for the next start; "": none.


# What may differ when a run goes on: it changes nothing that a step computes,
# but for rounding (mesh, residuals), or is a change on purpose (steps, guard).
MAY_CHANGE = frozenset(
  {
    "steps",
    "mesh",
    "log_every",
    "eval_batch_size",
    "eval_every",
    "checkpoint_every",
    "keep",
    "workers",
    "tensorboard",
    "watch",
    "profile",
    "compile_cache",
    "residuals",
    "guard",
  }
)


def from_mapping(values: Any) -> Config:
  """Reads and checks a config.

  Args:
    values: a `ConfigDict` or a dict, nested as the classes of this module.

  Raises:
    errors.UserError: for an unknown or missing key, a wrong type or an
      impossible value; the message names the key, the rule and near misses.
  """
  config = _dataclass(Config, _plain(values), "config")
  valid.check(config)
  return config


def named(values: Mapping[str, Any], path: str) -> Named:
  """Reads `{"name": ..., **arguments}`; `path` names it in errors."""
  return _dataclass(Named, _plain(values), path)


def to_mapping(config: Any) -> dict[str, Any]:
  """The inverse of `from_mapping`, of what JSON knows only."""
  out: dict[str, Any] = {}
  for field in dataclasses.fields(config):
    item = getattr(config, field.name)
    if field.metadata.get("rest"):
      out.update(_json(item))
    elif dataclasses.is_dataclass(item):
      out[field.name] = to_mapping(item)
    else:
      out[field.name] = item
  return out


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """The values of groups of keys, by keys with dots, as "mesh.data"."""
  out: dict[str, Any] = {}
  for key, item in values.items():
    if isinstance(item, Mapping):
      out |= flat(item, f"{prefix}{key}.")
    else:
      out[prefix + key] = _plain(item)
  return out


def differences(mine: Config, other: Mapping[str, Any]) -> list[str]:
  """What keeps a run with config `mine` from going on with one of `other`.

  Args:
    mine: the config of now.
    other: what `to_mapping` made of the earlier one. Keys that its version of
      jbin did not have are at their defaults; those that this one has not are
      differences.

  Returns:
    "key: earlier -> now" for each key that differs and may not.
  """
  now = flat(to_mapping(mine))
  try:
    was = flat(to_mapping(from_mapping(other)))
  except errors.UserError:
    was = flat(_plain(other))
  return [
    f"{key}: {was.get(key, 'unset')!r} -> {now.get(key, 'unset')!r}"
    for key in sorted({*now, *was})
    if key.split(".")[0] not in MAY_CHANGE and now.get(key) != was.get(key)
  ]


# --- From mapping to dataclass ---------------------------------------------


def _plain(values: Any) -> Any:
  """`values` with each ConfigDict as a dict and each JSON list as a tuple."""
  if hasattr(values, "items"):
    return {str(key): _plain(item) for key, item in values.items()}
  if isinstance(values, list | tuple):
    return tuple(_plain(item) for item in values)
  return values


def _json(values: Any) -> Any:
  if isinstance(values, Mapping):
    return {key: _json(item) for key, item in values.items()}
  if isinstance(values, tuple):
    return [_json(item) for item in values]
  if values is None or isinstance(values, bool | int | float | str):
    return values
  return repr(values)


def _dataclass(cls: type[Any], values: Any, path: str) -> Any:
  if not isinstance(values, Mapping):
    if cls is Named and isinstance(values, str):
      return Named(values)
    raise errors.UserError(
      f"{path} is {values!r}; it must be a group of keys"
      f" ({', '.join(_keys(cls))})"
    )
  hints = typing.get_type_hints(cls)
  found: dict[str, Any] = {}
  left = dict(values)
  rest = None
  for field in dataclasses.fields(cls):
    if field.metadata.get("rest"):
      rest = field.name
    elif field.name in left:
      item = left.pop(field.name)
      found[field.name] = _typed(item, hints[field.name], _at(path, field.name))
    elif field.default is dataclasses.MISSING:
      raise errors.UserError(
        f"the config has no key '{_at(path, field.name)}', which it needs"
        + _near(field.name, left)
      )
  if rest is not None:
    found[rest] = left
  elif left:
    key = next(iter(left))
    raise errors.UserError(
      f"unknown config key '{_at(path, key)}'"
      + (_near(key, _keys(cls)) or f"; known: {', '.join(_keys(cls))}")
    )
  return cls(**found)


def _keys(cls: type[Any]) -> list[str]:
  fields = dataclasses.fields(cls)
  return [field.name for field in fields if not field.metadata.get("rest")]


def _at(path: str, key: str) -> str:
  return key if path == "config" else f"{path}.{key}"


def _near(key: str, known: typing.Iterable[str]) -> str:
  near = difflib.get_close_matches(key, list(known), n=3, cutoff=0.6)
  return f"; did you mean {' or '.join(near)}?" if near else ""


def _typed(value: Any, hint: Any, path: str) -> Any:
  if isinstance(hint, types.UnionType):  # float | Named
    number = not (isinstance(value, Mapping | str))
    return _typed(value, typing.get_args(hint)[0 if number else 1], path)
  if dataclasses.is_dataclass(hint):
    return _dataclass(typing.cast(type[Any], hint), value, path)
  is_int = isinstance(value, int) and not isinstance(value, bool)
  if hint is float and (is_int or isinstance(value, float)):
    return float(value)
  if hint is int and is_int:
    return value
  if hint in (bool, str) and isinstance(value, hint):
    return value
  kinds = {int: "a whole number", float: "a number", bool: "True or False"}
  raise errors.UserError(
    f"config key '{path}' is {value!r}; it must be"
    f" {kinds.get(hint, 'a string')}"
  )
