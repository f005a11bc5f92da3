"""Quantizers: named compositions of normalise, estimate and scale.

`quantizers.NAME(hyper-parameters)` is a quantizer, a pure function from a
float tensor to `Quantized`. A new member is one file, one line here and one
row in `tests/quantizers/test_contract.py`.
"""

from jbin.quantizers._abcnet import abcnet_activation, abcnet_weight
from jbin.quantizers._adabin import adabin_activation, adabin_weight
from jbin.quantizers._base import (
  REGISTRY,
  Quantized,
  Quantizer,
  gate,
  make,
  without_codes,
)
from jbin.quantizers._bibert import bibert_weight
from jbin.quantizers._binaryconnect import binaryconnect
from jbin.quantizers._biper import biper_weight
from jbin.quantizers._bireal import bireal
from jbin.quantizers._bit import bit_activation, bit_weight
from jbin.quantizers._bitnet import (
  bitnet158_weight,
  bitnet_activation,
  bitnet_weight,
)
from jbin.quantizers._bivit import bivit_weight
from jbin.quantizers._delayed import delayed
from jbin.quantizers._dorefa import dorefa_activation, dorefa_weight
from jbin.quantizers._dsq import dsq
from jbin.quantizers._fbi import fbi_weight
from jbin.quantizers._fda import fda_activation, fda_weight
from jbin.quantizers._integer import absmax, minmax
from jbin.quantizers._irnet import irnet_activation, irnet_weight
from jbin.quantizers._lab import lab_activation
from jbin.quantizers._lqnet import lqnet_activation, lqnet_weight
from jbin.quantizers._lsq import lsq
from jbin.quantizers._noop import noop
from jbin.quantizers._onebit import onebit_weight
from jbin.quantizers._pact import pact
from jbin.quantizers._pokebnn import ema_bounds, poke_activation, poke_weight
from jbin.quantizers._rbnn import rbnn_activation, rbnn_weight
from jbin.quantizers._react import rsign
from jbin.quantizers._recu import recu_activation, recu_weight
from jbin.quantizers._reste import reste_activation, reste_weight
from jbin.quantizers._sab import Descent, coordinate_descent, sab
from jbin.quantizers._sign import sign
from jbin.quantizers._siman import (
  shrink_latents,
  siman_activation,
  siman_weight,
)
from jbin.quantizers._ste_heaviside import ste_heaviside
from jbin.quantizers._ste_tern import ste_tern
from jbin.quantizers._swish_sign import swish_sign
from jbin.quantizers._ttq import ttq
from jbin.quantizers._twn import twn
from jbin.quantizers._xnor import xnor
from jbin.quantizers._xnorpp import xnorpp

__all__ = [
  "REGISTRY",
  "Descent",
  "Quantized",
  "Quantizer",
  "abcnet_activation",
  "abcnet_weight",
  "absmax",
  "adabin_activation",
  "adabin_weight",
  "bibert_weight",
  "binaryconnect",
  "biper_weight",
  "bireal",
  "bit_activation",
  "bit_weight",
  "bitnet158_weight",
  "bitnet_activation",
  "bitnet_weight",
  "bivit_weight",
  "coordinate_descent",
  "delayed",
  "dorefa_activation",
  "dorefa_weight",
  "dsq",
  "ema_bounds",
  "fbi_weight",
  "fda_activation",
  "fda_weight",
  "gate",
  "irnet_activation",
  "irnet_weight",
  "lab_activation",
  "lqnet_activation",
  "lqnet_weight",
  "lsq",
  "make",
  "minmax",
  "noop",
  "onebit_weight",
  "pact",
  "poke_activation",
  "poke_weight",
  "rbnn_activation",
  "rbnn_weight",
  "recu_activation",
  "recu_weight",
  "reste_activation",
  "reste_weight",
  "rsign",
  "sab",
  "shrink_latents",
  "sign",
  "siman_activation",
  "siman_weight",
  "ste_heaviside",
  "ste_tern",
  "swish_sign",
  "ttq",
  "twn",
  "without_codes",
  "xnor",
  "xnorpp",
]
