"""Regularizers: what a loss adds for the latent weights of binary layers.

A regularizer is a pure function of a tree of latent weights (`nn.latents`
finds a model's) and its hyper-parameters; it returns a scalar.
"""

from jbin.regularizers._base import REGISTRY
from jbin.regularizers._biper import biper, biper_error, biper_magnitude
from jbin.regularizers._bnnplus import bnnplus_r1, bnnplus_r2
from jbin.regularizers._bonn import bonn
from jbin.regularizers._proxquant import proxquant

__all__ = [
  "REGISTRY",
  "biper",
  "biper_error",
  "biper_magnitude",
  "bnnplus_r1",
  "bnnplus_r2",
  "bonn",
  "proxquant",
]
