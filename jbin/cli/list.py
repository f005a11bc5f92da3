"""`jbin list`: every name that a config can use."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from jbin import errors, registry
from jbin.cli import _flags

FAMILIES = {
  "models": ("jbin.models", "REGISTRY"),
  "data": ("jbin.data", "REGISTRY"),
  "weights": ("jbin.pretrained", "REGISTRY"),
  "tasks": ("jbin.tasks", "REGISTRY"),
  "rules": ("jbin.convert", "REGISTRY"),
  "optimizers": ("jbin.optimizers", "REGISTRY"),
  "schedules": ("jbin.schedules", "REGISTRY"),
  "methods": ("jbin.methods", "REGISTRY"),
  "quantizers": ("jbin.quantizers", "REGISTRY"),
  "regularizers": ("jbin.regularizers", "REGISTRY"),
  "estimators": ("jbin.estimators", "REGISTRY"),
  "conventions": ("jbin.cost", "REGISTRY"),
  "chips": ("jbin.cost", "CHIPS"),
}
"""Family -> (module, attribute) of its registry; loaded when listed."""


def main(argv: Sequence[str]) -> None:
  """Prints the members of one family, or of all."""
  _, left, _ = _flags.parse("list", argv, {}, positional="[family]")
  for name in left or FAMILIES:
    print(describe(name))


def describe(family: str) -> str:
  """The members of a family with their one lines.

  Raises:
    errors.UnknownName: if there is no such family.
  """
  if family not in FAMILIES:
    # "model" is understood as "models" by the near misses.
    raise errors.UnknownName("family", family, FAMILIES)
  module, attribute = FAMILIES[family]
  members: registry.Registry = getattr(
    importlib.import_module(module), attribute
  )
  width = max((len(name) for name in members), default=0)
  lines = [f"  {name:<{width}}  {line}" for name, line in members.describe()]
  return "\n".join([f"{family}:", *lines])
