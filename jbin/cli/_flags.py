"""Flags of one command: absl's, and a config with overrides."""

from __future__ import annotations

import dataclasses
import difflib
import importlib.util
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from jbin import errors
from jbin.train import config as config_lib


def parse(
  command: str,
  argv: Sequence[str],
  texts: Mapping[str, str],
  *,
  needs: Sequence[str] = (),
  positional: str = "",
  switches: Mapping[str, str] | None = None,
  config: bool = False,
  notes: Mapping[str, str] | None = None,
) -> tuple[dict[str, Any], list[str], config_lib.Config | None]:
  """Reads a command's arguments.

  Args:
    command: its name, for messages.
    argv: what follows the name.
    texts: its string flags and their help.
    needs: flags that must be given.
    positional: the name of an optional positional argument; "": none.
    switches: its boolean flags and their help.
    config: whether it takes `--config`, which is then needed.
    notes: flags that the command reads itself, and their help.

  Returns:
    Values by flag, positional arguments, and the config.

  Raises:
    errors.UserError: for anything that cannot be read.
    SystemExit: with 0, after `--help`.
  """
  spec, rest = take_config(list(argv)) if config else ("", list(argv))
  values = flags.FlagValues()
  for name, line in texts.items():
    flags.DEFINE_string(name, None, line, flag_values=values)
  for name, line in (switches or {}).items():
    flags.DEFINE_bool(name, False, line, flag_values=values)
  if "--help" in rest or "-h" in rest:
    alone = {**(switches or {}), **(notes or {})}
    print(_help(command, texts, alone, config, positional))
    raise SystemExit(0)
  read = None
  if config:
    if not spec:
      raise errors.UserError(f"{command} needs --config=FILE.py[:ARG]")
    read = load(spec)
    _check_overrides(rest)
  try:
    if read is not None:
      config_flags.DEFINE_config_dict(
        "config",
        read,
        flag_values=values,
        lock_config=False,
        accept_new_attributes=True,
        sys_argv=["jbin", *rest],
      )
    left = values(["jbin", *rest])[1:]
  except flags.Error as error:
    raise errors.UserError(str(error)) from error
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    text = " ".join(str(error).split())
    hint = ""
    if isinstance(error, KeyError):
      key = text.strip("\"'")
      hint = (
        f"; the config has no group {key!r} yet: give it whole, as"
        f" --config.GROUP.{key}=\"{{'name': ...}}\""
      )
    raise errors.UserError(
      f"a --config override does not fit the config: {text[:200]}{hint}"
    ) from error
  if len(left) > bool(positional):
    raise errors.UserError(
      f"{command} takes no argument {left[-1]!r}; flags begin with --"
    )
  given = {name: values[name].value for name in [*texts, *(switches or {})]}
  for name in needs:
    if not given[name]:
      raise errors.UserError(f"{command} needs --{name}={name.upper()}")
  for name, value in given.items():
    if name in ("workdir", "out") and "://" in str(value or ""):
      raise errors.UserError(
        f"--{name} is {value!r}, and jbin writes to folders; mount the bucket"
        " on every host (with gcsfuse, say) and give its path"
      )
  return given, left, None if read is None else config_lib.from_mapping(read)


def load(spec: str) -> ml_collections.ConfigDict:
  """The config of `FILE.py[:ARG]`, with defaults where it says nothing.

  Raises:
    errors.UserError: if there is no such file, or it makes no config.
  """
  name, _, argument = spec.partition(":")
  path = Path(name)
  if not path.is_file():
    near = difflib.get_close_matches(
      path.name, [p.name for p in path.parent.glob("*.py")], n=3
    )
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise errors.UserError(f"no config file {name}{hint}")
  try:
    module_spec = importlib.util.spec_from_file_location("jbin_config", path)
    if module_spec is None or module_spec.loader is None:
      raise errors.UserError("this is no Python file, whose name ends in .py")
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    get_config = module.get_config
    made = get_config(argument) if ":" in spec else get_config()
  except errors.UserError as error:
    raise errors.UserError(f"{spec}: {error}") from error
  except Exception as error:
    raise errors.UserError(
      f"config {spec} does not load: {type(error).__name__}: {error}"
    ) from error
  if not issubclass(type(made), ml_collections.ConfigDict | Mapping):
    raise errors.UserError(
      f"config {spec}: get_config returns {type(made).__name__}; let it return"
      " an ml_collections.ConfigDict"
    )
  return _with_defaults(ml_collections.ConfigDict(made))


def _with_defaults(
  made: ml_collections.ConfigDict,
) -> ml_collections.ConfigDict:
  """Adds what is unset, so that it can be overridden by type."""
  with made.unlocked():
    for field in dataclasses.fields(config_lib.Config):
      if field.name not in made and field.default is not dataclasses.MISSING:
        default = field.default
        if dataclasses.is_dataclass(default):
          default = config_lib.to_mapping(default)
        made[field.name] = default
  made.unlock()
  return made


def take_config(argv: Sequence[str]) -> tuple[str, list[str]]:
  """The value of `--config` and all other arguments."""
  spec, rest, i = "", [], 0
  while i < len(argv):
    found = re.fullmatch(r"--?config(?:=(.*))?", argv[i])
    if not found:
      rest.append(argv[i])
    elif found[1] is not None:
      spec = found[1]
    elif i + 1 < len(argv):
      i += 1
      spec = argv[i]
    i += 1
  return spec, rest


def _check_overrides(argv: Sequence[str]) -> None:
  """Raises for an override of a key that no config has."""
  known = [field.name for field in dataclasses.fields(config_lib.Config)]
  for argument in argv:
    found = re.match(r"--?(?:no)?config\.([^.=]*)", argument)
    if found and found[1] not in known:
      near = difflib.get_close_matches(found[1], known, n=3, cutoff=0.6)
      hint = f"did you mean {' or '.join(near)}?" if near else ""
      hint = hint or f"known: {', '.join(known)}"
      raise errors.UserError(f"unknown config key '{found[1]}'; {hint}")


def _help(
  command: str,
  texts: Mapping[str, str],
  alone: Mapping[str, str],
  config: bool,
  positional: str,
) -> str:
  lines = [f"usage: jbin {command} [flags] {positional}".rstrip()]
  if config:
    lines += [
      "  --config=FILE.py[:ARG]  the config, and the argument of get_config",
      "  --config.KEY=VALUE      sets a key of it, as --config.steps=10",
    ]
  lines += [
    f"  {'--' + name + '=...':<24}{line}" for name, line in texts.items()
  ]
  lines += [f"  {'--' + name:<24}{line}" for name, line in alone.items()]
  return "\n".join(lines)
