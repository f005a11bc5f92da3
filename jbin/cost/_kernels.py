"""What opaque kernels cost, as their authors register it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from jbin import errors
from jbin.cost import _arrays
from jbin.cost._record import Operand, Record, Tally
from jbin.cost._values import Value, dtype_bits


@dataclasses.dataclass(frozen=True)
class Call:
  """One call of a kernel, as the function that prices it sees it.

  Attributes:
    inputs: shapes and dtypes of the operands.
    outputs: shapes and dtypes of the results.
    bits: the width of each operand's elements, by tag or by dtype.
    params: those of the equation: the `grid_mapping` of a Pallas kernel, the
      `attributes` of an FFI call.
  """

  inputs: tuple[jax.ShapeDtypeStruct, ...]
  outputs: tuple[jax.ShapeDtypeStruct, ...]
  bits: tuple[int, ...]
  params: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Product:
  """A product that a kernel computes.

  Attributes:
    macs: its multiply-accumulates in one call.
    lhs: position of the operand that is the activation.
    rhs: position of the operand that is the weight.
    lhs_bits: bits of an element, where several are packed in a word; None: as
      the operand's tag or dtype says.
    rhs_bits: the same of the weight.
  """

  macs: int
  lhs: int = 0
  rhs: int = 1
  lhs_bits: int | None = None
  rhs_bits: int | None = None


Cost = Callable[[Call], Sequence[Product]]
_KERNELS: dict[str, Cost] = {}
# Where a kernel's own name is.
_NAMES = {"pallas_call": "name", "ffi_call": "target_name"}


def kernel(name: str) -> Callable[[Cost], Cost]:
  """Registers what a kernel costs, so that reports count it.

  ```python
  @cost.kernel("xnor_matmul")  # operands: words of 32 signs
  def _(call):
    *batch, m, words = call.inputs[0].shape  # vmap puts axes in front
    n = call.inputs[1].shape[-1]
    macs = math.prod(batch) * m * 32 * words * n
    return [cost.Product(macs, lhs_bits=1, rhs_bits=1)]
  ```

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
  return " ".join(filter(None, (eqn.primitive.name, _own_name(eqn))))


def find(eqn: core.JaxprEqn) -> Cost | None:
  """The registered cost of an equation."""
  own = _own_name(eqn)
  return _KERNELS.get(own) or _KERNELS.get(eqn.primitive.name)


def add(
  eqn: core.JaxprEqn,
  values: Sequence[Value],
  where: str,
  phase: str,
  cost: Cost,
  tally: Tally,
  *,
  once: bool = False,
) -> None:
  """Writes down the products of one call of a kernel.

  `once`: it is done ahead, on parameters alone.

  Raises:
    errors.UserError: if the registered cost fails, or is not a list of products
      of the call's operands.
  """
  wide = [dtype_bits(_arrays.dtype_of(var)) for var in eqn.invars]
  call = Call(
    inputs=_structs(eqn.invars),
    outputs=_structs(eqn.outvars),
    bits=tuple(v.bits or n for v, n in zip(values, wide, strict=True)),
    params=dict(eqn.params),
  )
  for product in _products(cost, call, label(eqn)):
    if once:
      tally.on_weights += 2 * product.macs
      continue
    record = _record(product, call, values, where, label(eqn))
    tally.records.append(dataclasses.replace(record, phase=phase))
    if record.params and product.rhs_bits is not None:
      tally.packed[record.params[0]] = product.rhs_bits


def _products(cost: Cost, call: Call, kernel: str) -> Sequence[Product]:
  """What the registered cost says of a call, if it says something."""
  given = ", ".join(str(x.shape) for x in call.inputs)
  what = f"the cost registered for {kernel!r}, asked with operands {given},"
  try:
    found = cost(call)
  except Exception as error:
    raise errors.UserError(f"{what} raises {error!r}") from error
  if not isinstance(found, Sequence):
    raise errors.UserError(
      f"{what} gives {found!r}; it must give a list of cost.Product's"
    )
  n = len(call.inputs)
  for product in found:
    if not isinstance(product, Product) or not all(
      0 <= i < n for i in (product.lhs, product.rhs)
    ):
      raise errors.UserError(
        f"{what} gives {product!r}; it must give cost.Product's of the call's"
        f" {n} operands"
      )
  return found


def _record(
  product: Product,
  call: Call,
  values: Sequence[Value],
  where: str,
  primitive: str,
) -> Record:
  activation, weight = call.inputs[product.lhs], call.inputs[product.rhs]
  rhs = _operand(weight, values[product.rhs], product.rhs_bits)
  origin, out = values[product.rhs].origin, call.outputs[0]
  return Record(
    name=origin or where,
    kind="dense" if origin else "matmul",
    in_shape=activation.shape[1:],
    out_shape=out.shape[1:],
    kernel=weight.shape,
    strides=None,
    padding=None,
    groups=1,
    bias=False,
    macs=product.macs,
    lhs=_operand(activation, values[product.lhs], product.lhs_bits),
    rhs=rhs,
    weights=rhs.size * values[product.rhs].copies if origin else 0,
    primitive=primitive,
    params=(origin,) if origin else (),
    param_bits=(rhs.bits,) if origin else (),
    outputs=math.prod(out.shape),
    output_bits=dtype_bits(out.dtype),
  )


def _operand(
  array: jax.ShapeDtypeStruct, value: Value, packed: int | None
) -> Operand:
  wide = dtype_bits(array.dtype)
  bits = packed or value.bits
  return Operand(
    bits=bits or wide,
    dtype_bits=wide,
    tagged=bits is not None,
    is_float=bits is None and jnp.issubdtype(array.dtype, jnp.floating),
    size=math.prod(array.shape) * (wide // packed if packed else 1),
    dtype=str(array.dtype),
    step=value.step,
  )


def _structs(
  variables: Sequence[core.Var | core.Literal],
) -> tuple[jax.ShapeDtypeStruct, ...]:
  return tuple(
    jax.ShapeDtypeStruct(_arrays.shape_of(var), _arrays.dtype_of(var))
    for var in variables
  )


def _own_name(eqn: core.JaxprEqn) -> str:
  return str(eqn.params.get(_NAMES.get(eqn.primitive.name, ""), None) or "")
