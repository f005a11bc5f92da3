"""What a model computes with that no parameter's shape shows."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any

from flax import nnx

from jbin import nn

_NONE = object()


def attributes(model: Any, **paths: str) -> dict[str, Any]:
  """{name: attribute at "a/b/c"}, of those that the model has."""
  found: dict[str, Any] = {}
  for name, path in paths.items():
    value = model
    for part in path.split("/"):
      value = getattr(value, part, _NONE)
    if value is not _NONE:
      found[name] = value
  return found


def of_parts(model: nnx.Module, pattern: str, attribute: str) -> list[Any]:
  """An attribute of all parts whose path matches and that have it."""
  found: list[tuple[list[Any], Any]] = []
  for path, part in nnx.iter_modules(model):
    value = getattr(part, attribute, _NONE)
    if value is not _NONE and re.fullmatch(pattern, _text(path)):
      found.append(([*path], value))
  return [value for _, value in sorted(found, key=lambda pair: pair[0])]


def eps(model: nnx.Module, paths: Collection[str]) -> dict[str, Any]:
  """{"eps": that of all norms with parameters among `paths`}."""
  values = {
    part.epsilon
    for path, part in nnx.iter_modules(model)
    if isinstance(part, nnx.LayerNorm | nnx.RMSNorm)
    and f"{_text(path)}/scale" in paths
  }
  if not values:
    return {}
  return {"eps": values.pop() if len(values) == 1 else tuple(sorted(values))}


def quantizers(model: nnx.Module) -> Iterator[tuple[str, nn.Quantizer]]:
  """Path and quantizer, of all that a model has."""
  for path, part in nnx.iter_modules(model):
    if isinstance(part, nn.Quantizer):
      yield _text(path), part


def attentions(
  model: nnx.Module,
) -> Iterator[tuple[str, nn.DotProductAttention]]:
  """Path and function, of those that make weights by other than softmax."""
  for path, part in nnx.iter_modules(model):
    if isinstance(part, nn.DotProductAttention) and part.normalize is not None:
      yield _text(path), part


def _text(path: tuple[Any, ...]) -> str:
  return "/".join(map(str, path))
