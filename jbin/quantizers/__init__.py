"""Quantizers: named compositions of normalise, estimate and scale.

`quantizers.NAME(hyper-parameters)` is a quantizer, a pure function from a
float tensor to `Quantized`. A new member is one file, one line here and one
row in `tests/quantizers/test_contract.py`.
"""

from jbin.quantizers._base import (
  REGISTRY,
  Quantized,
  Quantizer,
  gate,
  make,
  without_codes,
)
from jbin.quantizers._delayed import delayed
from jbin.quantizers._dorefa import dorefa_activation, dorefa_weight
from jbin.quantizers._integer import absmax
from jbin.quantizers._pokebnn import ema_bounds, poke_activation, poke_weight
from jbin.quantizers._sign import sign
from jbin.quantizers._xnor import xnor

__all__ = [
  "REGISTRY",
  "Quantized",
  "Quantizer",
  "absmax",
  "delayed",
  "dorefa_activation",
  "dorefa_weight",
  "ema_bounds",
  "gate",
  "make",
  "poke_activation",
  "poke_weight",
  "sign",
  "without_codes",
  "xnor",
]
