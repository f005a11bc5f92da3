"""FDA-BNN's sign: a Fourier series, added term by term in float64."""

import functools

import jax.numpy as jnp
import numpy as np

from jbin import estimators
from tests.estimators.row import Row, sign


def _fda(n, omega=0.1, zero=1.0, atol=1e-5):
  odd = 2 * np.arange(n + 1) + 1

  def series(x, wave):
    inside = abs(x) <= 1
    angle = omega * np.where(inside, x, 0).astype(np.float64)
    terms = wave(odd * angle[..., None])
    return np.where(inside, 4 * omega / np.pi * terms.sum(-1), 0.0)

  return Row(
    functools.partial(estimators.fda_sign, n=n, omega=omega, zero=zero),
    sign(zero),
    lambda x: series(x, np.cos),
    zero,
    (0.0, 1.0, 0.01),
    lambda x: series(x, lambda angle: -odd * omega * np.sin(angle)),
    "x",
    # Terms of either sign cancel, next to where the sum is zero.
    atol=atol,
    fused=1e-6,
  )


def rows():
  return {
    "fda_sign": [
      _fda(9),
      _fda(18, zero=0.0),
      _fda(1),
      _fda(13, omega=1.0),
      _fda(jnp.int32(11), omega=0.3, zero=-1.0),
      # The sine is zero inside the window, where an angle near pi has lost
      # the digits that its sine would need.
      _fda(2, omega=3.5, atol=2e-3),
    ]
  }
