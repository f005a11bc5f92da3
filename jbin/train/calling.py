"""Calls by name: a member of a registry with the arguments of a config."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from typing import Any

from jbin import errors, registry, schedules
from jbin.train import config as config_lib

_PLAIN = {"int": int, "float": (int, float), "bool": bool, "str": str}
_ITEMS = {"Sequence[int]": int, "Sequence[float]": (int, float)}


def call(
  family: registry.Registry, named: config_lib.Named, **offered: Any
) -> Any:
  """Calls the member `named.name` with its arguments.

  A group of keys with the name of a schedule or of a quantizer becomes that.

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
  kwargs = {key: resolve(item) for key, item in named.kwargs.items()}
  takes = inspect.signature(factory).parameters
  for key, item in offered.items():
    if key in takes:
      kwargs.setdefault(key, item)
  what = f"{family.family} '{named.name}'"
  check_arguments(what, takes, kwargs)
  check_complete(what, takes, kwargs)
  return factory(**kwargs)


def resolve(item: Any) -> Any:
  """A group with the name of a schedule or a quantizer becomes that object.

  That of a model stays a group: a teacher, which its task has made.
  """
  from jbin import models, quantizers

  if isinstance(item, Mapping):
    if item.get("name") in models.REGISTRY:
      return dict(item)
    rest = {key: value for key, value in item.items() if key != "name"}
    for family in (schedules.REGISTRY, quantizers.REGISTRY):
      if item.get("name") in family:
        return call(family, config_lib.Named(item["name"], rest))
    if isinstance(item.get("name"), str):
      known = [*schedules.REGISTRY, *quantizers.REGISTRY]
      raise errors.UnknownName("schedule or quantizer", item["name"], known)
    return {key: resolve(value) for key, value in item.items()}
  if isinstance(item, list | tuple):
    return type(item)(resolve(value) for value in item)
  return item


def check_arguments(
  what: str,
  takes: Mapping[str, inspect.Parameter],
  kwargs: Mapping[str, Any],
) -> None:
  """Raises for an argument that is not taken, or has the wrong type.

  Args:
    what: for the message.
    takes: the parameters.
    kwargs: the arguments.

  Raises:
    errors.UserError: naming the argument, and near misses.
  """
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


def check_complete(
  what: str,
  takes: Mapping[str, inspect.Parameter],
  kwargs: Mapping[str, Any],
) -> None:
  """Raises for an argument that is needed and not there.

  Raises:
    errors.UserError: naming it.
  """
  for key, parameter in takes.items():
    if parameter.kind is parameter.VAR_KEYWORD:
      continue
    if parameter.default is inspect.Parameter.empty and key not in kwargs:
      raise errors.UserError(
        f"{what} needs the argument '{key}'; set it in the config"
      )
