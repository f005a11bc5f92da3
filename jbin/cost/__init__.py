"""What a program costs, read off its jaxpr.

`count(fn, *args)` walks the program of any JAX function or NNX module on
abstract values (nothing is allocated), finds the bits of each operand from the
tags of `jbin.bits`, and returns a `Report`; `report.explain(path)` says why an
operand has its bits. `REGISTRY` holds the conventions by which products are
priced; a convention is any function of a `Record`. `kernel` registers what an
opaque kernel costs. `flops_check` and `memory_check` put XLA's figures beside.
"""

from jbin.cost._chips import CHIPS, Chip, of_device as chip_of
from jbin.cost._communication import Communication, Transfer, communication
from jbin.cost._conventions import (
  REGISTRY,
  Convention,
  ace,
  ace_strict,
  biv_ops,
  bops,
  convention,
  cpu64_binary_64th_rest_1,
  cpu64_maxbits_64,
  larq_macs,
  larq_precision,
  ops_div64,
)
from jbin.cost._count import count
from jbin.cost._energy import (
  Operations,
  additions,
  energy_7nm,
  energy_7nm_ace,
  energy_45nm,
  energy_45nm_additions,
  energy_45nm_multiplications,
  multiplications,
)
from jbin.cost._flops_check import FlopsCheck, flops_check
from jbin.cost._kernels import Call, Product, kernel
from jbin.cost._memory import Memory
from jbin.cost._memory_check import MemoryCheck, compare_memory, memory_check
from jbin.cost._peak import Activations, Peak
from jbin.cost._phases import Training
from jbin.cost._record import (
  UPDATE,
  Branches,
  Collective,
  Lookup,
  NotCounted,
  Operand,
  Record,
)
from jbin.cost._report import Report
from jbin.cost._roofline import Roofline, bytes_moved
from jbin.cost._training import peak, training

__all__ = [
  "CHIPS",
  "REGISTRY",
  "UPDATE",
  "Activations",
  "Branches",
  "Call",
  "Chip",
  "Collective",
  "Communication",
  "Convention",
  "FlopsCheck",
  "Lookup",
  "Memory",
  "MemoryCheck",
  "NotCounted",
  "Operand",
  "Operations",
  "Peak",
  "Product",
  "Record",
  "Report",
  "Roofline",
  "Training",
  "Transfer",
  "ace",
  "ace_strict",
  "additions",
  "biv_ops",
  "bops",
  "bytes_moved",
  "chip_of",
  "communication",
  "compare_memory",
  "convention",
  "count",
  "cpu64_binary_64th_rest_1",
  "cpu64_maxbits_64",
  "energy_7nm",
  "energy_7nm_ace",
  "energy_45nm",
  "energy_45nm_additions",
  "energy_45nm_multiplications",
  "flops_check",
  "kernel",
  "larq_macs",
  "larq_precision",
  "memory_check",
  "multiplications",
  "ops_div64",
  "peak",
  "training",
]
