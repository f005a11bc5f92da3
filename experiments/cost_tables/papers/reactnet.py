"""ReActNet-A and Bi-Real-18: OPs and ACE, their real-valued layers in bfloat16.

ReActNet-A is a model of this folder, Bi-Real-18 a ResNet-18 of jbin with
Bi-Real Net's shortcuts; rules make both binary.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

import jbin
from experiments.cost_tables import sheet
from experiments.cost_tables.models import parts, reactnet
from jbin import cost, methods, models

IMAGE = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.bfloat16)


def report_of(model: nnx.Module, rules: Sequence[jbin.Rule]) -> cost.Report:
  """The cost of a model made low-bit by rules."""
  return cost.count(jbin.quantize(model, rules), IMAGE)


def reactnet_a() -> cost.Report:
  """ReActNet-A: all but the stem and the classifier are binary."""
  model = parts.abstract(reactnet.ReActNet, dtype=jnp.bfloat16)
  return report_of(model, [jbin.Rule("blocks/.*", **methods.react())])


def bireal(name: str) -> cost.Report:
  """Bi-Real Net: stem, shortcuts' convolutions and classifier are real."""
  model = parts.abstract(
    models.REGISTRY.get(name),
    shortcut="conv",
    activation="none",
    dtype=jnp.bfloat16,
  )
  rules = [
    jbin.Rule(".*shortcuts.*", note="real-valued"),
    jbin.Rule("blocks/.*", **methods.bireal()),
  ]
  return report_of(model, rules)


def _reactnet() -> Mapping[str, float]:
  return _figures(reactnet_a())


def _bireal(name: str) -> Mapping[str, float]:
  return _figures(bireal(name))


def _figures(report: cost.Report) -> Mapping[str, float]:
  binary = report.macs[1, 1]
  dense = sum(r.macs for r in report.layers if r.kind == "dense")
  ops = report.total("ops_div64")
  return {
    "binary": binary,
    "real": sum(report.macs.values()) - binary,
    "ops": ops,
    "convs": ops - dense,
    "ace": report.ace,
    "bytes": report.weight_bytes,
  }


SHEETS = (
  sheet.Sheet(
    name="reactnet",
    columns=(
      sheet.Column("binary", "binary MACs, 1e9", 1e9, 4),
      sheet.Column("real", "real MACs, 1e6", 1e6, 3),
      sheet.Column("ops", "OPs, 1e8", 1e8, 4),
      sheet.Column("convs", "OPs of convolutions, 1e8", 1e8, 4),
      sheet.Column("ace", "ACE, 1e9", 1e9, 6),
      sheet.Column("bytes", "weights, bytes", 1, 0),
    ),
    rows={
      "ReActNet-A": _reactnet,
      "Bi-Real-18": functools.partial(_bireal, "resnet18"),
    },
    whys={
      "With the classifier's 0.512e6 real MACs it is 1.640e8; the convolutions"
      " alone, in the next column, are the published 1.63e8": [
        ("Bi-Real-18", "ops"),
      ],
    },
  ),
)
