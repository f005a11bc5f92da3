"""EcoFormer: multiplications, additions, energy at 45 nm (arXiv 2209.09004).

The models are jbin's. Products are priced by its conventions: one with the
codes, -1 and +1, on a side is additions alone. What the authors' script charges
beside products is read off the program's marks, at the script's own prices
(`SCRIPT`); a second count takes all arithmetic of the program instead.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.cost_tables import sheet
from jbin import cost, models

IMAGE = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
MULTIPLY_PJ, ADD_PJ = 3.7, 0.9  # float32 at 45 nm, as in `energy_45nm`

# Mark -> multiplications and additions that the script has for each element.
SCRIPT: dict[str, tuple[int, int]] = {
  "layer_norm": (2, 2),
  "conv_bias": (1, 1),
  # The difference and its sum; the square is not charged.
  "kernel_distance": (0, 2),
  "kernel_exponent": (2, 0),
  "code_sum": (0, 1),
  # Charged although the codes are signs.
  "code_products": (1, 0),
  "denominator": (1, 0),
  "own_value": (0, 1),
  "normalize": (1, 0),
}
# The scores' scale has no mark: they are as many as softmax takes the largest
# of, a multiplication each.
SCORES = "reduce_max"
# All arithmetic of a program by its primitives; comparisons and functions
# (exp, erf, rsqrt) are neither.
MULTIPLY = ("mul", "div", "square", "integer_pow")
ADD = ("add", "sub", "reduce_sum")

MODELS: dict[str, Callable[..., nnx.Module]] = {
  "PVTv2-B0": models.pvt_v2_b0,
  "PVTv2-B1": models.pvt_v2_b1,
  "PVTv2-B2": models.pvt_v2_b2,
  "PVTv2-B3": models.pvt_v2_b3,
  "PVTv2-B4": models.pvt_v2_b4,
  "Twins-SVT-S": models.twins_svt_s,
}


def by_script(report: cost.Report) -> tuple[int, int]:
  """Multiplications and additions as the authors' script has them."""
  marks = report.elementwise
  extra = [
    sum(n * SCRIPT[name][side] for name, n in marks.items()) for side in (0, 1)
  ]
  products = report.operations()
  scores = report.elementwise_by_primitive[SCORES]
  return (
    products.total_multiplications + scores + extra[0],
    products.total_additions + extra[1],
  )


def by_program(report: cost.Report) -> tuple[int, int]:
  """All multiplications and additions that the program says."""
  extra = [
    sum(report.elementwise_by_primitive.get(name, 0) for name in names)
    for names in (MULTIPLY, ADD)
  ]
  products = report.operations()
  return (
    products.total_multiplications + extra[0],
    products.total_additions + extra[1],
  )


def energy(operations: tuple[int, int]) -> float:
  """PJ of multiplications and additions."""
  return MULTIPLY_PJ * operations[0] + ADD_PJ * operations[1]


def report_of(name: str, attention: str) -> cost.Report:
  """A model's with that attention, for one image."""
  make = functools.partial(MODELS[name], attention=attention)
  return cost.count(nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0))), IMAGE)


@functools.cache
def reports(name: str) -> tuple[cost.Report, cost.Report]:
  """With EcoFormer's attention, and with softmax attention everywhere."""
  return report_of(name, "hash"), report_of(name, "full")


def scripts(name: str) -> Mapping[str, float]:
  """By the authors' rule: EcoFormer's figures, all MSA's, what is saved."""
  mine, other = (by_script(report) for report in reports(name))
  return {
    "mul": mine[0],
    "add": mine[1],
    "energy": energy(mine),
    "msa_mul": other[0],
    "msa_add": other[1],
    "msa_energy": energy(other),
    "saved": 1 - energy(mine) / energy(other),
  }


def programs(name: str) -> Mapping[str, float]:
  """By the program: its products alone, and all its arithmetic."""
  eco, msa = reports(name)
  mine, other = by_program(eco), by_program(msa)
  return {
    "products": eco.total("energy_45nm"),
    "mul": mine[0],
    "add": mine[1],
    "energy": energy(mine),
    "msa_energy": energy(other),
    "saved": 1 - energy(mine) / energy(other),
  }


SHEETS = (
  sheet.Sheet(
    name="ecoformer",
    columns=(
      sheet.Column("mul", "Mul, G", 1e9, 3),
      sheet.Column("add", "Add, G", 1e9, 3),
      sheet.Column("energy", "energy, 1e9 pJ", 1e9, 2),
      sheet.Column("msa_mul", "all MSA: Mul, G", 1e9, 3),
      sheet.Column("msa_add", "all MSA: Add, G", 1e9, 3),
      sheet.Column("msa_energy", "all MSA: energy", 1e9, 2),
      sheet.Column("saved", "saved, %", 0.01, 1),
    ),
    rows={name: functools.partial(scripts, name) for name in MODELS},
    whys={
      "The published energy, which is 3.7 Mul + 0.9 Add, is that of our"
      " additions and not of the printed ones": [("PVTv2-B3", "add")],
    },
  ),
  sheet.Sheet(
    name="ecoformer_programs",
    columns=(
      sheet.Column("products", "products: energy, 1e9 pJ", 1e9, 2),
      sheet.Column("mul", "all: Mul, G", 1e9, 3),
      sheet.Column("add", "all: Add, G", 1e9, 3),
      sheet.Column("energy", "all: energy", 1e9, 2),
      sheet.Column("msa_energy", "all MSA, all: energy", 1e9, 2),
      sheet.Column("saved", "saved, %", 0.01, 1),
    ),
    rows={name: functools.partial(programs, name) for name in MODELS},
  ),
)
