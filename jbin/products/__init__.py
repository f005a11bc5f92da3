"""Products of low-bit tensors: where low-bit arithmetic happens."""

from jbin.products._conv import conv_general_dilated, conv_transpose
from jbin.products._core import GradPrecision, Operand
from jbin.products._dot import dot_general, einsum
from jbin.products._form import Form

__all__ = [
  "Form",
  "GradPrecision",
  "Operand",
  "conv_general_dilated",
  "conv_transpose",
  "dot_general",
  "einsum",
]
