"""BiBERT: FLOPs and sizes of BERT-base, float and binary (arXiv 2203.06390).

FLOPs are twice the MACs, at a length of 128; binary ones count a 64th.
"""

from __future__ import annotations

import decimal
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

import jbin
from experiments.cost_tables import sheet
from jbin import convert, cost, models

LENGTH = 128
TOKENS = jax.ShapeDtypeStruct((1, LENGTH), jnp.int32)
MIB = 2**20


def model() -> nnx.Module:
  """BERT-base up to its pooler, without arrays."""
  make = lambda: models.bert_base(0, dropout=0.0, rngs=nnx.Rngs(0))
  return nnx.eval_shape(make)


@functools.cache
def float_report() -> cost.Report:
  """BERT-base as it is."""
  return cost.count(model(), TOKENS, TOKENS)


@functools.cache
def binary_report(tables: str = "all") -> cost.Report:
  """All linear maps, the attention's products and these tables binary."""
  rules = convert.REGISTRY.get("bibert")(tables=tables)
  return cost.count(jbin.quantize(model(), rules), TOKENS, TOKENS)


def figures(report: cost.Report) -> dict[str, float]:
  """FLOPs and sizes by two rules each."""
  flops = 2 * report.total("ops_div64")
  memory = report.memory()
  matrices = memory.weights_bytes + memory.embeddings_bytes
  biases = sum(
    4 * parameter.size
    for path, parameter in report.parameters.items()
    if path.endswith("/bias") and "norm" not in path
  )
  return {
    "products": flops,
    "flops": flops + sum(report.elementwise_by_primitive.values()),
    "matrices": matrices,
    "size": matrices + biases,
    "stored": memory.parameters_bytes,
  }


def _float() -> Mapping[str, float]:
  return figures(float_report())


def _binary() -> Mapping[str, float]:
  before, after = _float(), figures(binary_report())
  return {
    **after,
    "products_fewer": before["products"] / after["products"],
    "fewer": before["flops"] / after["flops"],
    "smaller": before["stored"] / after["size"],
  }


def _by_code() -> Mapping[str, float]:
  return figures(binary_report(tables="words"))


def _printed() -> Mapping[str, float]:
  """The two ratios of the figures as the paper prints them."""
  before, after = (
    sheet.published("bibert")["rows"][name]
    for name in ("BERT 32-32-32", "BiBERT 1-1-1")
  )
  pairs = {"fewer": ("flops", "flops"), "smaller": ("stored", "size")}
  return {
    name: float(decimal.Decimal(before[a]) / decimal.Decimal(after[b]))
    for name, (a, b) in pairs.items()
  }


SHEETS = (
  sheet.Sheet(
    name="bibert",
    columns=(
      sheet.Column("products", "products, GFLOPs", 1e9, 3),
      sheet.Column("flops", "GFLOPs", 1e9, 3),
      sheet.Column("products_fewer", "products: times fewer", 1, 1),
      sheet.Column("fewer", "times fewer", 1, 1),
      sheet.Column("matrices", "matrices, MiB", MIB, 2),
      sheet.Column("size", "matrices and biases, MiB", MIB, 2),
      sheet.Column("stored", "all parameters, MiB", MIB, 2),
      sheet.Column("smaller", "times smaller", 1, 1),
    ),
    rows={
      "BERT 32-32-32": _float,
      "BiBERT 1-1-1": _binary,
      "BiBERT, position and type tables in float": _by_code,
      "of the printed figures": _printed,
    },
    whys={
      "The products are 22.35; with one FLOP for each of the program's"
      " element-wise operations it is 22.42. What the published 22.5 has"
      " beside products is not known": [("BERT 32-32-32", "flops")],
      "56.3 is 22.5 / 0.4, and 31.2 is 418 / 13.4, of the figures as they are"
      " printed (last row); products alone are 64.0 times fewer": [
        ("BiBERT 1-1-1", "fewer"),
        ("BiBERT 1-1-1", "smaller"),
      ],
    },
  ),
)
