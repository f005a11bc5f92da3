"""What a program costs, read off its jaxpr.

`count(fn, *args)` walks the program of any JAX function or NNX module on
abstract values (nothing is allocated), finds the bits of each operand from the
tags of `jbin.bits`, and returns a `Report`. `REGISTRY` holds the conventions
by which products are priced; a convention is any function of a `Record`.
"""

from jbin.cost._conventions import (
  REGISTRY,
  ace,
  ace_strict,
  cpu64_binary_64th_rest_1,
  cpu64_maxbits_64,
)
from jbin.cost._count import count
from jbin.cost._record import NotCounted, Operand, Record
from jbin.cost._report import Report

__all__ = [
  "REGISTRY",
  "NotCounted",
  "Operand",
  "Record",
  "Report",
  "ace",
  "ace_strict",
  "count",
  "cpu64_binary_64th_rest_1",
  "cpu64_maxbits_64",
]
