"""PokeBNN: ACE of the family, from `configs/pokebnn_imagenet.py`."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from experiments.cost_tables import sheet
from experiments.cost_tables.models import parts
from jbin import cost, models

CONFIG = sheet.HERE.parents[1] / "configs" / "pokebnn_imagenet.py"
WIDTHS = ("0.5x", "0.75x", "1.0x", "1.25x", "1.4x", "1.5x", "1.75x", "2.0x")
IMAGE = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)


def _config(width: str) -> Any:
  spec = importlib.util.spec_from_file_location(CONFIG.stem, CONFIG)
  assert spec is not None
  assert spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(width)


def row(width: str) -> Mapping[str, float]:
  """ACE, OPs and bytes of one width."""
  config = _config(width)
  named = dict(config.model)
  make = models.REGISTRY.get(named.pop("name"))
  model = parts.abstract(make, dtype=jnp.dtype(config.dtype), **named)
  report = cost.count(model, IMAGE)
  return {
    "ace": report.ace,
    "dense": sum(r.ace for r in report.layers if r.kind == "dense"),
    "strict": report.ace_strict,
    "ops": report.total("cpu64_binary_64th_rest_1"),
    "bytes": report.weight_bytes,
  }


SHEETS = (
  sheet.Sheet(
    name="pokebnn",
    columns=(
      sheet.Column("ace", "ACE, 1e9", 1e9, 9),
      sheet.Column("dense", "of which dense", 1e9, 6),
      sheet.Column("strict", "strict ACE, 1e9", 1e9, 3),
      sheet.Column("ops", "OPs, 1e8", 1e8, 4),
      sheet.Column("bytes", "weights, bytes", 1, 0),
    ),
    rows={
      f"PokeBNN-{width}": functools.partial(row, width) for width in WIDTHS
    },
  ),
)
