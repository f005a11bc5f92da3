"""What to watch while a low-bit model trains: numbers of weights, gradients."""

from jbin.watch._indicators import estimating_error, gradient_instability
from jbin.watch._inputs import (
  inputs,
  quantized_inputs,
  shares,
  twin,
  warn_one_sided,
)
from jbin.watch._measure import measure, total
from jbin.watch._paths import label

__all__ = [
  "estimating_error",
  "gradient_instability",
  "inputs",
  "label",
  "measure",
  "quantized_inputs",
  "shares",
  "total",
  "twin",
  "warn_one_sided",
]
