"""What opaque kernels cost, as their authors register it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from jax.extend import core

from jbin.cost import _rules
from jbin.cost._record import Operand, Record
from jbin.cost._values import Shape, Value, dtype_bits


@dataclasses.dataclass(frozen=True)
class Array:
  """An operand or result of a kernel."""

  shape: Shape
  dtype: Any
  bits: int
  # By the tag, or by the dtype.


@dataclasses.dataclass(frozen=True)
class Call:
  """One call of a kernel."""

  inputs: tuple[Array, ...]
  outputs: tuple[Array, ...]
  params: dict[str, Any]
  # Of the equation: the grid of a Pallas kernel, the attributes of an FFI call.


@dataclasses.dataclass(frozen=True)
class Product:
  """A product that a kernel computes.

  Attributes:
    macs: its multiply-accumulates.
    lhs: position of the operand that is the activation.
    rhs: position of the operand that is the weight.
    lhs_bits: width of its elements, where they are packed in words; None: as
      the operand says.
    rhs_bits: the same of the weight.
  """

  macs: int
  lhs: int = 0
  rhs: int = 1
  lhs_bits: int | None = None
  rhs_bits: int | None = None


class Cost(Protocol):
  """The function that is registered: what one call costs."""

  def __call__(self, call: Call, /) -> Sequence[Product]: ...


_KERNELS: dict[str, Cost] = {}


def kernel(name: str) -> Callable[[Cost], Cost]:
  """Registers what a kernel costs: `@cost.kernel("xnor_matmul")`.

  Args:
    name: the `name` of a `pallas_call`, the target of an `ffi_call`, or the
      name of a JAX primitive of your own.

  Raises:
    ValueError: if that name is taken.
  """

  def register(cost: Cost) -> Cost:
    if name in _KERNELS:
      raise ValueError(f"the cost of kernel {name!r} is registered twice")
    _KERNELS[name] = cost
    return cost

  return register


def label(eqn: core.JaxprEqn) -> str:
  """The primitive, with the kernel's own name where it has one."""
  own = _own_name(eqn)
  return f"{eqn.primitive.name} {own}" if own else eqn.primitive.name


def find(eqn: core.JaxprEqn) -> Cost | None:
  """The registered cost of an equation."""
  for name in (_own_name(eqn), eqn.primitive.name):
    if name in _KERNELS:
      return _KERNELS[name]
  return None


def records(
  eqn: core.JaxprEqn,
  values: Sequence[Value],
  where: str,
  phase: str,
  cost: Cost,
) -> list[Record]:
  """The records of one call of a kernel whose cost is registered."""
  inputs = [
    _array(var, value) for var, value in zip(eqn.invars, values, strict=True)
  ]
  outputs = [_array(var, Value()) for var in eqn.outvars]
  call = Call(tuple(inputs), tuple(outputs), dict(eqn.params))
  return [
    _record(product, call, values, where, phase, label(eqn))
    for product in cost(call)
  ]


def _record(
  product: Product,
  call: Call,
  values: Sequence[Value],
  where: str,
  phase: str,
  primitive: str,
) -> Record:
  lhs, rhs = (
    _operand(call.inputs[i], values[i], own)
    for i, own in (
      (product.lhs, product.lhs_bits),
      (product.rhs, product.rhs_bits),
    )
  )
  origin, out = values[product.rhs].origin, call.outputs[0]
  return Record(
    name=origin or where,
    kind="matmul" if origin is None else "dense",
    in_shape=call.inputs[product.lhs].shape[1:],
    out_shape=out.shape[1:],
    kernel=call.inputs[product.rhs].shape,
    strides=None,
    padding=None,
    groups=1,
    bias=False,
    macs=product.macs,
    lhs=lhs,
    rhs=rhs,
    weights=0 if origin is None else rhs.size,
    primitive=primitive,
    params=() if origin is None else (origin,),
    param_bits=() if origin is None else (rhs.bits,),
    outputs=math.prod(out.shape),
    output_bits=dtype_bits(out.dtype),
    phase=phase,
  )


def _operand(array: Array, value: Value, own: int | None) -> Operand:
  wide = dtype_bits(array.dtype)
  bits = array.bits if own is None else own
  return Operand(
    bits=bits,
    dtype_bits=wide,
    tagged=bits != wide,
    is_float=bits == wide and "float" in str(array.dtype),
    size=math.prod(array.shape) * wide // max(bits, 1)
    if own is not None
    else math.prod(array.shape),
    step=value.step,
  )


def _array(var: core.Var | core.Literal, value: Value) -> Array:
  dtype = _rules.dtype_of(var)
  wide = 0 if dtype is None else dtype_bits(dtype)
  bits = wide if value.bits is None else value.bits
  return Array(_rules.shape_of(var), dtype, bits)


def _own_name(eqn: core.JaxprEqn) -> str:
  key = {"pallas_call": "name", "ffi_call": "target_name"}
  return str(eqn.params.get(key.get(eqn.primitive.name, ""), None) or "")
