"""ReSTE, BiPer, IR-Net, RBNN: gradients that a schedule shapes."""

import functools
import math

import numpy as np

from jbin import quantizers, schedules
from tests.quantizers.formulas import CHANNEL, EXAMPLE, SHAPE, sign
from tests.quantizers.row import Row, start
from tests.quantizers.standardized import standardized

AXES = (0, 1)  # all but the channel's
ALPHA = np.linspace(0.5, 1.5, SHAPE[-1], dtype=np.float32)


def alpha(x):
  del x
  return {"scale": ALPHA}


# --- ReSTE ------------------------------------------------------------------


def power(x, o, t=1.5, m=0.1):
  size = abs(x)
  near, inside = size <= np.float32(m), size <= np.float32(t)
  base = np.where(inside & ~near, size, 1).astype(np.float64)
  curve = base ** (1 / o - 1) / o
  return np.where(near, m ** (1 / o - 1), np.where(inside, curve, 0))


def reste_weight(o, detached=False, keep_scale=True, zero=1.0, **options):
  def formula(x):
    c = abs(x).mean(dtype=np.float64)
    signs = sign(x, zero)

    def pull(g):
      through = g * power(x, o, **options) * (c if keep_scale else 1.0)
      total = 0.0 if detached or not keep_scale else (g * signs).sum()
      return through + np.sign(x) / x.size * total

    return c * signs, pull

  return formula


def reste_activation(o, zero=1.0, **options):
  return lambda x: (sign(x, zero), power(x, o, **options))


def _reste():
  q = quantizers
  return {
    "reste_weight": [
      Row(q.reste_weight(), reste_weight(3 - math.sqrt(2)), progress=0.5),
      Row(q.reste_weight(2.0, 1.0, 0.25), reste_weight(2.0, t=1.0, m=0.25)),
      Row(
        q.reste_weight(3.0, detached=True),
        reste_weight(3.0, True),
        second="held",
      ),
      Row(
        q.reste_weight(3.0, keep_scale=False),
        reste_weight(3.0, keep_scale=False),
      ),
      Row(
        q.reste_weight(1.0, zero=0.0),
        reste_weight(1.0, zero=0.0),
        coded=False,
        levels=3,
      ),
    ],
    "reste_activation": [
      Row(q.reste_activation(), reste_activation(1.0), progress=0.0),
      Row(
        q.reste_activation(2.0, 1.0, 0.25, zero=0.0),
        reste_activation(2.0, zero=0.0, t=1.0, m=0.25),
        coded=False,
        levels=3,
      ),
    ],
  }


# --- BiPer ------------------------------------------------------------------


def biper(omega, binary, scaled=True, zero=1.0):
  def formula(x):
    phase = (np.float32(omega) * x).astype(np.float64)
    wave = np.sin(phase)
    codes = sign(wave, zero) if binary else wave
    scale = ALPHA if scaled else 1.0
    factor = scale * omega * np.cos(phase)
    pulls = {"scale": lambda g: (g * codes).sum(AXES)} if scaled else {}
    return scale * codes, factor, pulls

  return formula


def _biper():
  make = quantizers.biper_weight
  two_stages = make(20.0, 0.5)
  turning = make(schedules.linear(10.0, 30.0), 0, learned_scale=False)
  row = functools.partial(Row, kept=CHANNEL, variables=alpha, rtol=1e-5)
  plain = functools.partial(Row, rtol=1e-5)
  return {
    "biper_weight": [
      row(make(20.0, 0), biper(20.0, True)),
      # Real numbers: as many as weights.
      row(
        two_stages,
        biper(20.0, False),
        progress=0.25,
        coded=False,
        levels=0,
      ),
      row(two_stages, biper(20.0, True), progress=0.5, coded=False),
      plain(turning, biper(20.0, True, False), progress=0.5),
      plain(
        make(30.0, 0, learned_scale=False, zero=0.0),
        biper(30.0, True, False, 0.0),
        coded=False,
        levels=3,
      ),
    ]
  }


# --- IR-Net -----------------------------------------------------------------


def bell(v, t, k=None):
  k = max(1 / t, 1.0) if k is None else k
  return k * t / np.cosh(t * v) ** 2


def irnet_weight(t, k=None, zero=1.0):
  def formula(x):
    v, back = standardized(x, CHANNEL)
    mean = abs(v).mean(AXES, keepdims=True)
    there = mean > 0
    s = np.where(there, 2 ** np.round(np.log2(np.where(there, mean, 1))), 0)
    return s * sign(v, zero), lambda g: back(g * s * bell(v, t, k))

  return formula


def irnet_activation(t, k=None, zero=1.0):
  return lambda x: (sign(x, zero), bell(x.astype(np.float64), t, k))


def _irnet():
  q = quantizers
  row = functools.partial(Row, kept=CHANNEL, rtol=1e-5)
  return {
    "irnet_weight": [
      row(q.irnet_weight(), irnet_weight(1.0), progress=0.5),
      row(q.irnet_weight(0.25), irnet_weight(0.25)),
      row(q.irnet_weight(4.0, 0.5), irnet_weight(4.0, 0.5)),
      row(
        q.irnet_weight(1.0, zero=0.0), irnet_weight(1.0, zero=0.0), coded=False
      ),
    ],
    "irnet_activation": [
      Row(q.irnet_activation(), irnet_activation(1.0), progress=0.5, rtol=1e-5),
      Row(q.irnet_activation(0.25, 2.0), irnet_activation(0.25, 2.0)),
      Row(
        q.irnet_activation(1.0, zero=0.0),
        irnet_activation(1.0, zero=0.0),
        coded=False,
        levels=3,
      ),
    ],
  }


# --- RBNN -------------------------------------------------------------------


def parabola(v, t, k):
  return k * np.maximum(math.sqrt(2) * t - t**2 * abs(v), 0)


def _rotated(v, left, right):
  """Channel by channel, each filter an (a, b) matrix, inputs first."""
  *spatial, inputs, out = v.shape
  result = np.empty_like(v)
  for channel in range(out):
    filters = np.moveaxis(v[..., channel], -1, 0)
    matrix = filters.reshape(len(left), len(right))
    turned = (left.T @ matrix @ right).reshape(inputs, *spatial)
    result[..., channel] = np.moveaxis(turned, 0, -1)
  return result


def rbnn_weight(quantizer, t, k=None, detached=True, scaled=True, zero=1.0):
  k = max(1 / t, 1.0) if k is None else k

  def formula(x):
    values = {n: np.float64(a) for n, a in start(quantizer)(x).items()}
    left, right = values["left"], values["right"]
    theta = values["theta"]
    alpha = abs(x).mean(AXES, dtype=np.float64) if scaled else 1.0
    v, back = standardized(x, CHANNEL)
    r = _rotated(v, left, right)
    share = abs(np.sin(theta))
    u = v + share * (r - v)
    signs = sign(u, zero)

    def du(g):
      return g * alpha * parabola(u, t, k)

    def pull(g):
      dv = (1 - share) * du(g)
      if not detached:
        dv = dv + _rotated(share * du(g), left.T, right.T)
      return back(dv)

    slope = np.sign(np.sin(theta)) * np.cos(theta)
    pulls = {"theta": lambda g: slope * (du(g) * (r - v)).sum(AXES)}
    if scaled:
      pulls["scale"] = lambda g: (g * signs).sum(AXES)
    return alpha * signs, pull, pulls

  return formula


def rbnn_activation(t, zero=1.0):
  def formula(x):
    v, back = standardized(x, EXAMPLE)
    return sign(v, zero), lambda g: back(g * parabola(v, max(t, 1.0), 1.0))

  return formula


def _rbnn():
  q = quantizers
  # The rotated weights, which do not stand still, are constant if detached.
  row = functools.partial(Row, kept=CHANNEL, rtol=2e-5, second="finite")
  middle = math.sqrt(0.1)  # of 0.01 and 10
  default, exact = q.rbnn_weight(), q.rbnn_weight(t=0.5, detached=False)
  sharp = q.rbnn_weight(7, 2.0, 0.5, theta=4.0, seed=3)
  plain = q.rbnn_weight(t=1.0, learned_scale=False, zero=0.0)
  return {
    "rbnn_weight": [
      row(default, rbnn_weight(default, middle), progress=0.5),
      row(exact, rbnn_weight(exact, 0.5, detached=False), second="held"),
      row(sharp, rbnn_weight(sharp, 2.0, 0.5)),
      Row(
        plain,
        rbnn_weight(plain, 1.0, scaled=False, zero=0.0),
        rtol=2e-5,
        coded=False,
        levels=3,
        second="finite",
      ),
    ],
    "rbnn_activation": [
      Row(q.rbnn_activation(), rbnn_activation(10.0), progress=1.0, rtol=2e-5),
      Row(q.rbnn_activation(0.5), rbnn_activation(0.5), rtol=2e-5),
      Row(
        q.rbnn_activation(2.0, zero=0.0),
        rbnn_activation(2.0, zero=0.0),
        rtol=2e-5,
        coded=False,
        levels=3,
      ),
    ],
  }


def rows():
  return {**_reste(), **_biper(), **_irnet(), **_rbnn()}
