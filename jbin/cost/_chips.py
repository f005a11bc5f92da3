"""Chips with the peaks and bandwidths that their vendors publish.

Peaks are dense operations a second, a multiply-accumulate being two; sources
were read in November 2026.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from jbin import registry
from jbin.cost import _units

CHIPS = registry.Registry("chip")

_CLOUD = "Google Cloud's page of this TPU"
_JAX = "JAX 0.10.2 (its table of TPUs)"
_SPARSE = "half of what it says with sparsity"


@dataclasses.dataclass(frozen=True)
class Chip:
  """What a roofline needs to know of a chip.

  Attributes:
    name: as reports print it.
    peaks: operations a second by unit; a unit is named as a dtype ("int8",
      "bfloat16", "float8"), and NVIDIA's TF32 is "tfloat32".
    bandwidth: bytes a second of the main memory.
    float32: the unit on which JAX computes float32 products at its default
      precision.
    source: where the figures are from.
    kinds: what JAX calls it, as `jax.devices()[0].device_kind`; other chips of
      the same name (an H100 on a PCIe card) have other peaks.

  Raises:
    ValueError: if a unit is not named as a dtype, or `float32` is not among
      the peaks.
  """

  name: str
  peaks: Mapping[str, float]
  bandwidth: float
  float32: str
  source: str
  kinds: tuple[str, ...] = ()

  def __post_init__(self):
    """Finds a unit that could never be matched."""
    for unit in self.peaks:
      _units.width(unit)
    if self.float32 not in self.peaks:
      raise ValueError(
        f"float32 runs on {self.float32!r}, which {self.name} has no peak for"
      )

  def ridge(self, unit: str) -> float:
    """Operations for each byte from which on a unit is the limit."""
    return self.peaks[unit] / self.bandwidth


def find(name: str) -> Chip:
  """The chip of that name.

  Raises:
    errors.UnknownName: if there is none; the message has the near misses.
  """
  return CHIPS.get(name)()


def of_device(kind: str) -> Chip | None:
  """The chip that JAX calls so; None if no registered one has that name.

  Args:
    kind: `jax.devices()[0].device_kind`.
  """
  chips = (find(name) for name in CHIPS)
  return next((chip for chip in chips if kind in chip.kinds), None)


def _tpu(
  name: str,
  bandwidth: float,
  source: str,
  kinds: tuple[str, ...],
  **peaks: float,
) -> Chip:
  """A TPU: float32 products are done in bfloat16 unless asked otherwise."""
  return Chip(name, peaks, bandwidth, "bfloat16", source, kinds)


@CHIPS.register
def tpu_v4() -> Chip:
  """TPU v4: 275 T in bfloat16 or int8, 1.2 TB/s."""
  kinds = ("TPU v4",)
  return _tpu("TPU v4", 1.2e12, _CLOUD, kinds, bfloat16=275e12, int8=275e12)


@CHIPS.register
def tpu_v5e() -> Chip:
  """TPU v5e: 197 T in bfloat16, 393 T in int8, 788 T in int4, 0.819 TB/s."""
  return _tpu(
    "TPU v5e",
    819e9,
    f"{_CLOUD}; int4: {_JAX}",
    ("TPU v5e", "TPU v5 lite"),
    bfloat16=197e12,
    int8=393e12,
    int4=788e12,
  )


@CHIPS.register
def tpu_v5p() -> Chip:
  """TPU v5p: 459 T in bfloat16, 918 T in int8, 1840 T in int4, 2.765 TB/s."""
  return _tpu(
    "TPU v5p",
    2765e9,
    f"{_CLOUD}; int8 and int4: {_JAX}",
    ("TPU v5p", "TPU v5"),
    bfloat16=459e12,
    int8=918e12,
    int4=1840e12,
  )


@CHIPS.register
def tpu_v6e() -> Chip:
  """TPU v6e: 918 T in bfloat16, 1836 T in int8, 3680 T in int4, 1.638 TB/s."""
  return _tpu(
    "TPU v6e",
    1638e9,
    f"{_CLOUD}; float8 and int4: {_JAX}",
    ("TPU v6e", "TPU v6 lite"),
    bfloat16=918e12,
    float8=918e12,
    int8=1836e12,
    int4=3680e12,
  )


@CHIPS.register
def a100() -> Chip:
  """NVIDIA A100 SXM 80 GB: 312 T in bfloat16, 624 T in int8, 2.039 TB/s."""
  return Chip(
    "A100 SXM 80 GB",
    {
      "bfloat16": 312e12,
      "float16": 312e12,
      "tfloat32": 156e12,
      "float32": 19.5e12,
      "float64": 19.5e12,
      "int8": 624e12,
      "int4": 1248e12,
      "int1": 4992e12,
    },
    2039e9,
    "tfloat32",
    "NVIDIA's A100 data sheet of June 2021; int4 and int1: its Ampere white"
    " paper of 2020",
    ("NVIDIA A100-SXM4-80GB",),
  )


@CHIPS.register
def h100() -> Chip:
  """NVIDIA H100 SXM: 989.4 T in bfloat16, 1979 T in int8, 3.35 TB/s."""
  return Chip(
    "H100 SXM",
    {
      "bfloat16": 989.4e12,
      "float16": 989.4e12,
      "float8": 1978.9e12,
      "tfloat32": 494.7e12,
      "float32": 66.9e12,
      "float64": 66.9e12,
      "int8": 1978.9e12,
    },
    3.35e12,
    "tfloat32",
    f"NVIDIA's H100 data sheet and Hopper white paper of 2023; {_SPARSE}",
    ("NVIDIA H100 80GB HBM3",),
  )
