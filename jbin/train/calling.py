"""Calls by name: a member of a registry with the arguments of a config."""

from __future__ import annotations

import ast
import contextlib
import difflib
import inspect
import traceback
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import jax

from jbin import errors, registry, schedules
from jbin.train import config as config_lib

_PLAIN = {"int": int, "float": (int, float), "bool": bool, "str": str}
_LISTS = ("Sequence[", "tuple[")
# What a function raises, traced without arrays, that cannot take its arguments.
_REFUSALS = (
  ArithmeticError,
  AssertionError,
  AttributeError,
  LookupError,
  MemoryError,
  NotImplementedError,
  RecursionError,
  TypeError,
  ValueError,
)


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
      take, lacks, or that has the wrong type or value.
  """
  factory = family.get(named.name)
  what = f"{family.family} '{named.name}'"
  kwargs = resolved(what, named.kwargs)
  takes = inspect.signature(factory).parameters
  for key, item in offered.items():
    if key in takes:
      kwargs.setdefault(key, item)
  check_arguments(what, takes, kwargs)
  check_complete(what, takes, kwargs)
  with follows(f"{what} cannot be made", named.kwargs):
    return factory(**kwargs)


@contextlib.contextmanager
def follows(what: str, kwargs: Mapping[str, Any]) -> Generator[None]:
  """What is computed inside, without arrays, follows from these arguments.

  So does an error, whose message is then about them; the error itself is its
  cause.

  Args:
    what: as "model 'vit' cannot be made".
    kwargs: the arguments, as the config has them.

  Raises:
    errors.UserError: in place of what a function raises that cannot take them,
      and of one that does not name them.
  """
  try:
    yield
  except errors.UserError as error:
    if not kwargs or _names_one(str(error), kwargs):
      raise
    # That of a part, such as a quantizer, which has another name for it.
    raise errors.UserError(
      f"{error} ({what} with {listed(kwargs)}; change one of them)"
    ) from error
  except _REFUSALS as error:
    said = " ".join(str(error).split())[:200]
    raise errors.UserError(
      f"{what} with {listed(kwargs)}; change one of them:"
      f" {type(error).__name__} at {_place(error)}: {said}"
    ) from error


def _names_one(said: str, kwargs: Mapping[str, Any]) -> bool:
  """Whether a message is about an argument: of a number, with its value."""
  return any(
    key in said and (not isinstance(value, int | float) or str(value) in said)
    for key, value in kwargs.items()
  )


def listed(kwargs: Mapping[str, Any]) -> str:
  """The arguments as they stand in a call, long ones cut off."""
  texts = {key: repr(value) for key, value in kwargs.items()}
  said = ", ".join(
    f"{key}={text if len(text) <= 60 else text[:57] + '...'}"
    for key, text in texts.items()
  )
  return said or "no arguments"


def _place(error: BaseException) -> str:
  """The last line of a traceback that is not of JAX or Flax."""
  packages = str(Path(jax.__file__).parent.parent)
  frames = traceback.extract_tb(error.__traceback__)
  ours = [f for f in frames if not f.filename.startswith((packages, "<"))]
  frame = (ours or frames)[-1]
  return f"{'/'.join(Path(frame.filename).parts[-2:])}:{frame.lineno}"


def resolved(what: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
  """The arguments of a config, each as `resolve` has it.

  Raises:
    errors.UserError: naming the argument of `what` that is wrong.
  """
  found: dict[str, Any] = {}
  for key, item in kwargs.items():
    try:
      found[key] = resolve(item)
    except errors.UserError as error:
      raise errors.UserError(f"argument '{key}' of {what}: {error}") from error
  return found


def resolve(item: Any) -> Any:
  """A group with the name of a schedule or a quantizer becomes that object.

  That of a model stays a group: a teacher, which its task has made.
  """
  from jbin import models, quantizers

  if isinstance(item, Mapping):
    if "name" not in item:
      return {key: resolve(value) for key, value in item.items()}
    name = item["name"]
    if not isinstance(name, str):
      raise errors.UserError(f"'name' is {name!r}; it must be a text")
    if name in models.REGISTRY:
      return dict(item)
    rest = {key: value for key, value in item.items() if key != "name"}
    for family in (schedules.REGISTRY, quantizers.REGISTRY):
      if name in family:
        return call(family, config_lib.Named(name, rest))
    known = [*schedules.REGISTRY, *quantizers.REGISTRY]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = (
      f"did you mean {' or '.join(near)}?"
      if near
      else "see `jbin list schedules` and `jbin list quantizers`"
    )
    raise errors.UserError(f"unknown schedule or quantizer {name!r}; {hint}")
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
    if not any(_fits(value, part) for part in _parts(kind)):
      raise errors.UserError(
        f"argument '{key}' of {what} is {value!r}; it must be of type {kind}"
      )


def _parts(kind: str) -> list[str]:
  """The types of a union; a bar between brackets is no union."""
  parts, depth = [""], 0
  for letter in kind:
    depth += (letter == "[") - (letter == "]")
    if letter == "|" and not depth:
      parts.append("")
    else:
      parts[-1] += letter
  return [part.strip() for part in parts]


def _fits(value: Any, kind: str) -> bool:
  """Whether a value may be of a type, by its annotation; if unsure, it may."""
  if kind in _PLAIN:
    whole = not isinstance(value, bool) or kind == "bool"
    return whole and isinstance(value, _PLAIN[kind])
  if kind == "None":
    return value is None
  if kind.endswith("Hyper"):
    return callable(value) or _fits(value, "float")
  if kind.startswith("Literal["):
    return value in ast.literal_eval(kind.removeprefix("Literal"))
  if kind.startswith(_LISTS):
    inner = kind.partition("[")[2].removesuffix("]").removesuffix(", ...")
    items = _items(inner)
    if not isinstance(value, list | tuple):
      return False
    if len(items) == 1:
      return all(_fits(item, items[0]) for item in value)
    pairs = zip(value, items, strict=False)
    return len(value) == len(items) and all(_fits(v, k) for v, k in pairs)
  return True


def _items(kinds: str) -> list[str]:
  """The types of a tuple; those that are not plain ones stay together."""
  found = kinds.split(", ")
  return found if all(kind in _PLAIN for kind in found) else [kinds]


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
