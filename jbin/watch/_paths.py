"""How a layer is called in records: by its path, as cost reports have it."""

from __future__ import annotations

from typing import Any


def label(path: tuple[Any, ...], least: str) -> str:
  """blocks/0/conv, from a path that ends there or in `least` (say, kernel)."""
  if len(path) > 1 and path[-1] == least:
    path = path[:-1]
  return "/".join(map(str, path))
