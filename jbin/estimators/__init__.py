"""Estimators: sign and round with a stated surrogate gradient.

An estimator is a function `y = f(x, ...)` of one array whose backward is a
`custom_vjp` written out as a formula. A new member is one file, one line here
and one row in `tests/estimators/test_contract.py`.
"""

from jbin.estimators._approx_sign import approx_sign
from jbin.estimators._base import REGISTRY, Edge
from jbin.estimators._clipped_round import clipped_round
from jbin.estimators._ste_sign import ste_sign

__all__ = ["REGISTRY", "Edge", "approx_sign", "clipped_round", "ste_sign"]
