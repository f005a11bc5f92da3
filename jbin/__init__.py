"""jbin: train, measure and ship neural networks of 1 to 8 bits in JAX."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from jbin import (
    bench,
    bits,
    convert,
    cost,
    data,
    errors,
    estimators,
    lm,
    methods,
    models,
    nn,
    optimizers,
    pretrained,
    products,
    quantizers,
    references,
    regularizers,
    report,
    residuals,
    schedules,
    shards,
    tasks,
    train,
    watch,
  )
  from jbin.convert import Rule, cite, dequantize, plan, quantize

__version__ = "0.1.0"

__all__ = [
  "Rule",
  "bench",
  "bits",
  "cite",
  "convert",
  "cost",
  "data",
  "dequantize",
  "errors",
  "estimators",
  "lm",
  "methods",
  "models",
  "nn",
  "optimizers",
  "plan",
  "pretrained",
  "products",
  "quantize",
  "quantizers",
  "references",
  "regularizers",
  "report",
  "residuals",
  "schedules",
  "shards",
  "tasks",
  "train",
  "watch",
]


# What a model is made low-bit with; in `jbin.convert`, and here by name.
_RULES = ("Rule", "cite", "dequantize", "plan", "quantize")


def __getattr__(name: str) -> Any:
  """Imports a room when it is first asked for: `import jbin` stays light."""
  if name in _RULES:
    return getattr(importlib.import_module("jbin.convert"), name)
  if name in __all__:
    return importlib.import_module(f"jbin.{name}")
  raise AttributeError(f"module 'jbin' has no attribute {name!r}")


def __dir__() -> list[str]:
  return sorted([*globals(), *__all__])
