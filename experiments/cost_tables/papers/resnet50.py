"""ResNet-50 at pairs of bits: the ACE that AQT's own cost test holds."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp

import jbin
from experiments.cost_tables import sheet
from experiments.cost_tables.models import parts
from jbin import convert, cost, models

IMAGE = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.bfloat16)
# Rows -> the rule set "bits"; w8 leaves activations in bfloat16.
BITS = {
  "bfloat16": "bfloat16",
  "w8": "w8",
  "w4": "w4",
  "w8a8": "w8a8",
  "w4a4": "w4a4",
  "w4a4, first and last w8a8": "w4a4_firstlast8",
  "w4a2": "w4a2",
  "w1a1, first and last bfloat16": "w1a1_firstlastfloat",
}


def row(bits: str) -> Mapping[str, float]:
  """ACE, its share of bfloat16's, OPs and bytes."""
  model = parts.abstract(models.resnet50, dtype=jnp.bfloat16)
  rules = convert.REGISTRY.get("bits")(bits=bits)
  # Rules that ask for the first or the last layer need an example.
  ordered = any(rule.position is not None for rule in rules)
  example = [IMAGE] if ordered else []
  report = cost.count(jbin.quantize(model, rules, *example), IMAGE)
  return {
    "ace": report.ace,
    "share": report.ace / (256 * sum(report.macs.values())),
    "memory": report.weight_bits,
    "ops": report.total("cpu64_maxbits_64"),
  }


SHEETS = (
  sheet.Sheet(
    name="resnet50",
    columns=(
      sheet.Column("ace", "ACE", 1, 0),
      sheet.Column("share", "of bfloat16", 1, 5),
      sheet.Column("memory", "weight bits", 1, 0),
      sheet.Column("ops", "CPU64 OPs, 1e8", 1e8, 3),
    ),
    rows={name: functools.partial(row, bits) for name, bits in BITS.items()},
  ),
)
