"""NNX layers that take quantizers; without them they are Flax's own."""

from jbin.nn._activation import DPReLU
from jbin.nn._conv import Conv
from jbin.nn._linear import Einsum, Embed, Linear
from jbin.nn._norm import BatchNorm
from jbin.nn._quantizer import Quantizer, QuantizerStat, calibrate
from jbin.nn._reshape_add import reshape_add
from jbin.nn._squeeze_excite import SqueezeExcite

__all__ = [
  "BatchNorm",
  "Conv",
  "DPReLU",
  "Einsum",
  "Embed",
  "Linear",
  "Quantizer",
  "QuantizerStat",
  "SqueezeExcite",
  "calibrate",
  "reshape_add",
]
