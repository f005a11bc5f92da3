"""Conventions: what one record costs, by name.

A convention is any function of a `Record`; `report.total(convention)` is its
sum over the products of the program. Those registered here have names, units
and a sentence on what they leave out. `_energy.py` and `_roofline.py` register
more.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable

from jbin import registry
from jbin.cost._record import Operand, Record

REGISTRY = registry.Registry("cost convention")
Price = Callable[[Record], float]
# What no convention on products counts.
NO_PRODUCT = (
  "all that is not a product (norms, activations, shortcuts, pools, biases,"
  " rescaling, softmax, look-ups)"
)
WORD = 64  # binary products that one instruction of a 64-bit CPU does


@dataclasses.dataclass(frozen=True)
class Convention:
  """A named price of a record; call it with one.

  Attributes:
    name: as `REGISTRY` and `report.total` know it.
    title: as reports print it.
    unit: of what it returns: "MACs", "OPs", "bit operations", "pJ", "bytes".
    leaves_out: what it does not count; `report.left_out(name)` has amounts.
    price: the function of a record. Totals are sums over records, so that a
      loop costs its body times its trips.
  """

  name: str
  title: str
  unit: str
  leaves_out: str
  price: Price

  def __post_init__(self):
    """Makes it look like the function: a registry and `help` read these."""
    doc = inspect.cleandoc(self.price.__doc__ or f"{self.title}.")
    object.__setattr__(self, "__name__", self.name)
    object.__setattr__(
      self, "__doc__", f"{doc}\n\nLeaves out {self.leaves_out}."
    )

  def __call__(self, record: Record) -> float:
    """The cost of one record, an exact integer where it can be."""
    return self.price(record)


def convention(
  title: str, unit: str, leaves_out: str = NO_PRODUCT
) -> Callable[[Price], Convention]:
  """Decorator: registers a function of a record as a convention of its name.

  ```python
  @jbin.cost.convention("MACs of weights", "MACs")
  def weight_macs(record):
    return record.macs if record.weights else 0
  ```

  Args:
    title: as reports print it.
    unit: of what the function returns.
    leaves_out: what it does not count, to stand after "Leaves out".

  Raises:
    ValueError: if a convention of that name is registered.
  """

  def register(price: Price) -> Convention:
    name = getattr(price, "__name__", "")
    return REGISTRY.register(Convention(name, title, unit, leaves_out, price))

  return register


def is_codes(operand: Operand) -> bool:
  """Whether a side is integers: tagged, or of an integer dtype."""
  return not operand.is_float


def both_codes(record: Record) -> bool:
  """Whether the product is one of integers."""
  return is_codes(record.lhs) and is_codes(record.rhs)


def has_one_bit(record: Record) -> bool:
  """Whether a side is 1-bit codes, whose products need no multiplication."""
  return any(is_codes(s) and s.bits == 1 for s in (record.lhs, record.rhs))


@convention(
  "ACE",
  "bit operations",
  f"{NO_PRODUCT}, and the width of the accumulator",
)
def ace(record: Record) -> int:
  """Arithmetic computation effort: MACs x activation bits x weight bits.

  `cost = macs * lhs_bits * rhs_bits`, in one-bit cells; a bfloat16 MAC is 256.
  Bits are those of the tags, wherever the scale goes. Reference: PokeBNN.
  """
  return record.ace


@convention(
  "ACE, strict",
  "bit operations",
  f"{NO_PRODUCT}, and the width of the accumulator",
)
def ace_strict(record: Record) -> int:
  """ACE, but as float where a scale along the contraction forbids integers.

  `cost = macs * b * b` with `b` the bits of the float dtype that the scaled
  codes have, if their scale varies along a contracted axis and the other
  operand is codes too. A scale that is constant on runs of that axis costs
  `ace + partials * b * b`, one multiply-accumulate of floats for each run and
  result, or the former if that is less. If the other operand is float it takes
  the scale, and the tagged bits stand, as in `ace`.
  """
  lhs, rhs = record.strict_bits
  wide = record.float_bits**2
  by_runs = record.macs * lhs * rhs + record.partials * wide
  return min(by_runs, record.macs * wide) if record.partials else by_runs


@convention(
  "CPU64, binary/64",
  "OPs",
  f"{NO_PRODUCT}, and any gain of 2- to 8-bit MACs",
)
def cpu64_binary_64th_rest_1(record: Record) -> float:
  """OPs on a 64-bit CPU: binary MACs / 64, every other MAC 1.

  `cost = macs / 64` for 1 x 1 bit, else `macs`.
  """
  binary = record.lhs_bits == record.rhs_bits == 1
  return record.macs / WORD if binary else record.macs


@convention("CPU64, max(bits)/64", "OPs")
def cpu64_maxbits_64(record: Record) -> float:
  """OPs on a 64-bit CPU: MACs x max(bits) / 64, or 1 with a float operand.

  `cost = macs * max(lhs_bits, rhs_bits) / 64` if both are codes, else `macs`.
  """
  if not both_codes(record):
    return record.macs
  return record.macs * max(record.lhs_bits, record.rhs_bits) / WORD


@convention(
  "BOPs",
  "bit operations",
  f"products with a float operand, and {NO_PRODUCT}",
)
def bops(record: Record) -> int:
  """Bit operations of the products of codes: MACs x bits x bits.

  `cost = macs * lhs_bits * rhs_bits` if both operands are codes, else 0: it is
  `ace` without the products that have a float side. `report.left_out("bops")`
  has the MACs of those.
  """
  return record.ace if both_codes(record) else 0


@convention("OPs = FLOPs + BOPs/64", "OPs")
def ops_div64(record: Record) -> float:
  """OPs of the papers on binary networks: MACs of floats + BOPs / 64.

  `cost = macs * lhs_bits * rhs_bits / 64` if both operands are codes, else
  `macs`: one FLOP is one multiply-accumulate. ReActNet-A is 0.87e8, the
  convolutions of Bi-Real-18 1.63e8. References: Bi-Real Net, ReActNet,
  BinaryDM.

  Readings differ. On 1 x 1 bit and on floats all do the same; 4 x 4 bits cost
  16/64 here, 4/64 in `cpu64_maxbits_64` and 1 in `cpu64_binary_64th_rest_1`,
  and codes of more than 64 bit operations cost more than a float. A 1-bit
  weight on a float activation is a FLOP here, half of one in `biv_ops`.
  BiBERT calls two FLOPs what is one here; its figures are twice these.
  """
  return record.ace / WORD if both_codes(record) else record.macs


@convention("OPs of BiViT", "OPs")
def biv_ops(record: Record) -> float:
  """OPs as in BiViT: as `ops_div64`, but 1-bit codes on floats cost MACs / 2.

  `cost = macs / 2` if one operand is 1-bit codes and the other float, for
  additions are all that is left of such a product; else that of `ops_div64`.
  Reference: BiViT, whose case is a 1-bit weight and a float activation; a
  1-bit activation and a float weight are priced alike here.
  """
  if has_one_bit(record) and not both_codes(record):
    return record.macs / 2
  return ops_div64(record)


@convention(
  "MACs of Larq",
  "MACs",
  f"products of two activations, and {NO_PRODUCT}",
)
def larq_macs(record: Record) -> int:
  """MACs as Larq's model summary counts them: weights x output positions.

  `cost = elements of the kernel * outputs / output channels` if one operand is
  a parameter, else 0. Padding positions count, biases do not. Each MAC is one,
  whatever its bits; Larq's table splits them by `larq_precision`:
  `report.total_by("larq_macs", cost.larq_precision)`. Reference: Larq 0.13.

  Differs from `macs` in transposed convolutions, where Larq also counts the
  zeros between inputs. Differs from Larq in separable convolutions, where Larq
  gives the second kernel the precision of the first one's input.
  """
  if not record.weights:
    return 0
  if not record.kind.startswith("conv"):
    return record.macs
  return math.prod(record.kernel[:-1]) * record.outputs * record.repeats


def larq_precision(record: Record) -> int:
  """The precision of a MAC in Larq's table: the wider operand's bits.

  Every float counts as 32 bits, as Larq's layers without a quantizer do.
  """
  return max(s.bits if is_codes(s) else 32 for s in (record.lhs, record.rhs))


def sum_of(price: Price, records: list[Record]) -> float:
  """The total of a price, exact if all are integers."""
  costs = [price(record) for record in records]
  exact = all(isinstance(cost, int) for cost in costs)
  return sum(costs) if exact else math.fsum(costs)
