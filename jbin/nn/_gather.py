"""Which kernels a mesh's devices send each other as bits."""

from __future__ import annotations

import dataclasses
from typing import Any

from jbin import shards
from jbin.nn import _axes, _stack
from jbin.quantizers import Quantized


def packed(layer: Any, kernel: Quantized) -> Quantized:
  """A layer's quantized kernel, told how products are to gather its bits.

  Of one bit, with codes, of a kernel that the mesh splits over `fsdp`; anything
  else is as it was, and so is all outside of `shards.within(gather="packed")`.
  In a scan over a stack the kernel is one member's, split as the stack is along
  its other axes; where the rule split the stack's own axis, the member is laid
  as it would be alone.

  Args:
    layer: has the parameter `kernel`.
    kernel: what its quantizer made.
  """
  if kernel.bits != 1 or kernel.codes is None:
    return kernel
  variable, layout = layer.kernel, layer.kernel_quantizer.layout
  names = _axes.axis_names(variable)
  if names is not None:
    names = names[_stack.stack_axes(variable) :]
    if len(names) != variable.ndim:
      return kernel
  split = shards.places(variable.shape, names)
  if split is not None and layout is not None:
    arranged = getattr(layout, "places", None)
    split = arranged and arranged(variable.shape, split)
  if split is None:
    return kernel
  packing = shards.packing(kernel.shape, split)
  return dataclasses.replace(kernel, packing=packing)
