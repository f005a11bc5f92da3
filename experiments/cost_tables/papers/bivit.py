"""BiViT: OPs and sizes of binary vision transformers (arXiv 2211.07091).

Each architecture is counted in float, with binary attention and MLPs of 1-bit
weights (W1A32), and with all of both binary. They are jbin's models, made
low-bit by its rule set of the paper.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from flax import nnx

import jbin
from experiments.cost_tables import sheet
from jbin import convert, cost, models

IMAGE = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
NORM = 5  # operations for each element of a norm, see WHYS
MODELS: dict[str, Callable[..., nnx.Module]] = {
  "DeiT-T": models.deit_t,
  "DeiT-B": models.deit_b,
  "Swin-T": models.swin_t,
  "Swin-S": models.swin_s,
  "NesT-T": models.nest_t,
  "NesT-S": models.nest_s,
}


@functools.cache
def reports(name: str) -> tuple[cost.Report, cost.Report, cost.Report]:
  """In float; attention W1A1 and MLP W1A32; all W1A1."""
  model = nnx.eval_shape(lambda: MODELS[name](rngs=nnx.Rngs(0)))
  rules = [convert.REGISTRY.get("bivit")(mlp=mlp) for mlp in ("w1a32", "w1a1")]
  low = [jbin.quantize(model, chosen) for chosen in rules]
  found, mixed, binary = (cost.count(m, IMAGE) for m in (model, *low))
  return found, mixed, binary


def part(record: cost.Record) -> str:
  """Where a product belongs: to "attention", "mlp" or "rest"."""
  if "/mlp/" in record.name:
    return "mlp"
  inside = "/attn" in record.name or record.kind == "matmul"
  return "attention" if inside else "rest"


def ops(name: str) -> Mapping[str, float]:
  """OPs of the three programs: of their products, and with their norms."""
  float_report = reports(name)[0]
  macs = float_report.total_by(lambda record: record.macs, part)
  norms = NORM * float_report.elementwise["layer_norm"]
  figures = {key: macs[key] for key in ("rest", "attention", "mlp")}
  for key, report in zip(("fp", "w1a32", "w1a1"), reports(name), strict=True):
    products = report.total("biv_ops")
    figures |= {f"{key}_products": products, key: products + norms}
  return figures


def sizes(name: str) -> Mapping[str, float]:
  """Bytes in float, and by three rules on what else than matrices counts."""
  found, low, _ = reports(name)
  one_bit = {
    path
    for record in low.layers
    for path, bits in zip(record.params, record.param_bits, strict=True)
    if bits == 1
  }
  biases = {f"{path.rpartition('/')[0]}/bias" for path in one_bit}
  matrices = modules = 0.0
  for path, parameter in found.parameters.items():
    wide = 4 * parameter.size
    inside = bool({"attn", "mlp", "table"} & set(path.split("/")))
    modules += wide / 32 if inside else wide
    if path in one_bit:
      matrices += wide / 32
    elif "norm" not in path and path not in biases:
      matrices += wide
  return {
    "fp_bytes": found.memory().parameters_bytes,
    "bytes": modules,
    "matrices": matrices,
    "stored": low.memory().parameters_bytes,
  }


SHEETS = (
  sheet.Sheet(
    name="bivit_ops",
    columns=(
      sheet.Column("rest", "rest, G MACs", 1e9, 4),
      sheet.Column("attention", "attention", 1e9, 4),
      sheet.Column("mlp", "MLP", 1e9, 4),
      sheet.Column("fp_products", "float: products, G OPs", 1e9, 3),
      sheet.Column("fp", "float: OPs", 1e9, 3),
      sheet.Column("w1a32_products", "MLP W1A32: products", 1e9, 3),
      sheet.Column("w1a32", "MLP W1A32: OPs", 1e9, 3),
      sheet.Column("w1a1_products", "all W1A1: products", 1e9, 3),
      sheet.Column("w1a1", "all W1A1: OPs", 1e9, 3),
    ),
    rows={name: functools.partial(ops, name) for name in MODELS},
    whys={
      "No rule was found for this column of the paper, which is in another"
      " table than the rest. With the rule that gives all its other OPs ours"
      " are larger; products alone are too small for Swin-S and too large for"
      " NesT": [
        ("Swin-S", "w1a1"),
        ("NesT-T", "w1a1"),
        ("NesT-S", "w1a1"),
      ],
    },
  ),
  sheet.Sheet(
    name="bivit_sizes",
    columns=(
      sheet.Column("fp_bytes", "float, MB", 1e6, 2),
      sheet.Column("bytes", "binary, MB", 1e6, 2),
      sheet.Column("matrices", "without norms and biases", 1e6, 2),
      sheet.Column("stored", "all that jbin keeps", 1e6, 2),
    ),
    rows={name: functools.partial(sizes, name) for name in MODELS},
    whys={
      "5,717,416 parameters of 4 bytes are 22.87; the published figure seems"
      " cut and not rounded": [("DeiT-T", "fp_bytes")],
      "17,057,608 parameters of 4 bytes are 68.23. No reason was found for the"
      " published figure; that of NesT-S, the same with twelve blocks more, is"
      " ours": [("NesT-T", "fp_bytes")],
    },
  ),
)
