"""Estimators: sign and round with a stated surrogate gradient.

An estimator is a function `y = f(x, ...)` of one array whose backward is a
`custom_vjp` written out as a formula. A new member is one file, one line here
and one row in `tests/estimators/test_contract.py`.
"""

from jbin.estimators._approx_sign import approx_sign
from jbin.estimators._base import REGISTRY, Edge
from jbin.estimators._clipped_round import clipped_round
from jbin.estimators._dsq import dsq
from jbin.estimators._ede_sign import ede_sign
from jbin.estimators._fda_sign import fda_sign
from jbin.estimators._onebit_sign import onebit_sign
from jbin.estimators._rbnn_sign import rbnn_sign
from jbin.estimators._reste_sign import reste_sign
from jbin.estimators._sine_sign import sine_sign
from jbin.estimators._ste_heaviside import ste_heaviside
from jbin.estimators._ste_sign import ste_sign
from jbin.estimators._ste_tern import ste_tern
from jbin.estimators._stochastic_sign import stochastic_sign
from jbin.estimators._swish_sign import swish_sign
from jbin.estimators._window import Keep

__all__ = [
  "REGISTRY",
  "Edge",
  "Keep",
  "approx_sign",
  "clipped_round",
  "dsq",
  "ede_sign",
  "fda_sign",
  "onebit_sign",
  "rbnn_sign",
  "reste_sign",
  "sine_sign",
  "ste_heaviside",
  "ste_sign",
  "ste_tern",
  "stochastic_sign",
  "swish_sign",
]
