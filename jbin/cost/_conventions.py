"""Conventions: what one record costs, by name.

A convention is any function of a `Record`; `report.total(convention)` is its
sum over the products of the program. Those registered here have names.
"""

from __future__ import annotations

from jbin import registry
from jbin.cost._record import Record

REGISTRY = registry.Registry("cost convention")


@REGISTRY.register
def ace(record: Record) -> int:
  """Arithmetic computation effort: MACs x activation bits x weight bits.

  `cost = macs * lhs_bits * rhs_bits`, in one-bit cells; a bfloat16 MAC is 256.
  Bits are those of the tags, wherever the scale goes. Leaves out: everything
  that is not a product (norms, activations, shortcuts, pools, biases,
  rescaling, softmax, look-ups) and the width of the accumulator.
  """
  return record.ace


@REGISTRY.register
def ace_strict(record: Record) -> int:
  """ACE, but as float where a scale along the contraction forbids integers.

  `cost = macs * b * b` with `b` the bits of the float dtype that the scaled
  codes have, if their scale varies along a contracted axis and the other
  operand is codes too. A scale that is constant on runs of that axis costs
  `ace + partials * b * b`, one multiply-accumulate of floats for each run and
  result, or the former if that is less. If the other operand is float it takes
  the scale, and the tagged bits stand, as in `ace`. Leaves out what `ace`
  leaves out.
  """
  lhs, rhs = record.strict_bits
  wide = record.float_bits**2
  by_runs = record.macs * lhs * rhs + record.partials * wide
  return min(by_runs, record.macs * wide) if record.partials else by_runs


@REGISTRY.register
def cpu64_binary_64th_rest_1(record: Record) -> float:
  """OPs on a 64-bit CPU: binary MACs / 64, every other MAC 1.

  `cost = macs / 64` for 1 x 1 bit, else `macs`. Leaves out everything that is
  not a product, and any gain of 2- to 8-bit MACs.
  """
  return (
    record.macs / 64
    if record.lhs_bits == record.rhs_bits == 1
    else (record.macs)
  )


@REGISTRY.register
def cpu64_maxbits_64(record: Record) -> float:
  """OPs on a 64-bit CPU: MACs x max(bits) / 64, or 1 with a float operand.

  `cost = macs * max(lhs_bits, rhs_bits) / 64` if both are codes, else `macs`.
  Leaves out everything that is not a product.
  """
  if record.lhs.is_float or record.rhs.is_float:
    return record.macs
  return record.macs * max(record.lhs_bits, record.rhs_bits) / 64
