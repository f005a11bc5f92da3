"""jbin: train, measure and ship neural networks of 1 to 8 bits in JAX."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from jbin import (
    bits,
    cost,
    data,
    errors,
    estimators,
    models,
    nn,
    products,
    quantizers,
    references,
    report,
    residuals,
    schedules,
    tasks,
    train,
  )

__version__ = "0.1.0"

__all__ = [
  "bits",
  "cost",
  "data",
  "errors",
  "estimators",
  "models",
  "nn",
  "products",
  "quantizers",
  "references",
  "report",
  "residuals",
  "schedules",
  "tasks",
  "train",
]


def __getattr__(name: str) -> Any:
  """Imports a room when it is first asked for: `import jbin` stays light."""
  if name in __all__:
    return importlib.import_module(f"jbin.{name}")
  raise AttributeError(f"module 'jbin' has no attribute {name!r}")


def __dir__() -> list[str]:
  return sorted([*globals(), *__all__])
