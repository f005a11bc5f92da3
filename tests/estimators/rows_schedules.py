"""Estimators whose shape a schedule sets: ReSTE, IR-Net, RBNN, BiPer.

Sharpnesses are powers of two where a difference is taken: products are then
exact, and numpy meets an edge where XLA does.
"""

import functools

import numpy as np

from jbin import estimators
from tests.estimators.row import Row, sign


def _reste(o, t=1.5, m=0.1, zero=1.0):
  near, far = np.float32(m), np.float32(t)

  def curve(x, power, by):
    size = abs(x).astype(np.float64)
    there = (size > near) & (size <= far)
    return there, np.where(there, size, 1.0) ** power * by

  def factor(x):
    there, value = curve(x, 1 / o - 1, 1 / o)
    return np.where(abs(x) <= near, m ** (1 / o - 1), value * there)

  def second(x):
    there, value = curve(x, 1 / o - 2, (1 / o) * (1 / o - 1))
    return value * there * np.sign(x)

  return Row(
    functools.partial(estimators.reste_sign, o=o, t=t, m=m, zero=zero),
    sign(zero),
    factor,
    zero,
    (0.0, m, t),
    second,
    "x",
    rtol=2e-6,
  )


def _ede(t, k=None, zero=1.0):
  height = max(1 / t, 1.0) if k is None else k

  def bell(x):
    with np.errstate(over="ignore"):
      return 1 / np.cosh(t * x.astype(np.float64)) ** 2

  return Row(
    functools.partial(estimators.ede_sign, t=t, k=k, zero=zero),
    sign(zero),
    lambda x: height * t * bell(x),
    zero,
    (0.0, 1 / t),
    lambda x: -2 * height * t**2 * np.tanh(t * x) * bell(x),
    "x",
    rtol=2e-5,  # exp(-u) is as good as u, which is up to 88
  )


def _rbnn(t, k=None, zero=1.0):
  height, root = max(1 / t, 1.0) if k is None else k, np.float32(np.sqrt(2))
  t32 = np.float32(t)

  def factor(x):
    with np.errstate(over="ignore"):
      return height * t * np.maximum(root - t32 * abs(x), 0)

  return Row(
    functools.partial(estimators.rbnn_sign, t=t, k=k, zero=zero),
    sign(zero),
    factor,
    zero,
    (0.0, float(root) / t),
    lambda x: np.where(t * abs(x) < root, -height * t**2 * np.sign(x), 0.0),
    "x",
  )


def _sine(omega, zero=1.0):
  def phase(x):
    with np.errstate(over="ignore"):
      turned = np.float32(omega) * x
    finite = np.isfinite(turned)
    return finite, np.where(finite, turned, 0).astype(np.float64)

  def factor(x):
    finite, turned = phase(x)
    return np.where(finite, omega * np.cos(turned), 0.0)

  return Row(
    functools.partial(estimators.sine_sign, omega=omega, zero=zero),
    lambda x: sign(zero)(np.sin(phase(x)[1])),
    factor,
    zero,
    (0.0, 0.5 * np.pi / omega, 0.9 * np.pi / omega),
    lambda x: -(omega**2) * np.sin(phase(x)[1]),
    "x",
    rtol=1e-6,
  )


def rows():
  return {
    "reste_sign": [
      _reste(3.0),
      _reste(1.0),
      _reste(1.5, zero=0.0),
      _reste(2.0, t=1.0, m=0.25, zero=-1.0),
    ],
    "ede_sign": [
      _ede(0.1),
      _ede(10.0),
      _ede(1.0, zero=0.0),
      _ede(0.5, k=1.0, zero=-1.0),
    ],
    "rbnn_sign": [
      _rbnn(0.5),
      _rbnn(2.0),
      _rbnn(8.0, k=1.0, zero=0.0),
      _rbnn(1.0, zero=-1.0),
    ],
    "sine_sign": [_sine(20.0), _sine(2.0, zero=0.0), _sine(1.0, zero=-1.0)],
  }
