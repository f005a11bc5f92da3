"""Larq's estimators, SwishSign, BinaryConnect's draw, DSQ's staircase."""

import functools

import numpy as np

from jbin import estimators
from tests.estimators.row import Row, sign


def _inside(clip, edge="closed"):
  compare = np.less if edge == "open" else np.less_equal
  return lambda x: compare(abs(x), np.inf if clip is None else np.float32(clip))


def _tern(threshold, clip, keep_ties=True, edge="closed"):
  least = np.float32(threshold)
  kept = np.greater_equal if keep_ties else np.greater
  return Row(
    functools.partial(
      estimators.ste_tern,
      threshold=threshold,
      clip=clip,
      keep_ties=keep_ties,
      edge=edge,
    ),
    lambda x: np.sign(x) * kept(abs(x), least),
    _inside(clip, edge),
    0.0,
    (0.0, threshold, 1.0 if clip is None else clip),
  )


def _heaviside(clip, edge="closed", zero=0.0):
  return Row(
    functools.partial(
      estimators.ste_heaviside, clip=clip, edge=edge, zero=zero
    ),
    lambda x: np.where(x == 0, zero, x > 0),
    _inside(clip, edge),
    zero,
    (0.0, 1.0 if clip is None else clip),
  )


def _swish(beta, zero=1.0):
  """Past |u| = 80 the slope is below 1e-30."""

  def parts(x):
    u = np.clip(beta * x.astype(np.float64), -300, 300)
    return u, np.tanh(u / 2), 1 + np.cosh(u)

  def factor(x):
    u, tanh, bell = parts(x)
    return beta * (2 - u * tanh) / bell

  def second(x):
    u, tanh, bell = parts(x)
    top = 2 - u * tanh
    slope = -(tanh + u / (2 * np.cosh(u / 2) ** 2))
    return beta**2 * (slope * bell - top * np.sinh(u)) / bell**2

  return Row(
    functools.partial(estimators.swish_sign, beta=beta, zero=zero),
    sign(zero),
    factor,
    zero,
    (0.0, 1.0),
    second,
    "x",
    rtol=2e-5,  # exp(-u) is as good as u, which is up to 70
    atol=4e-7 * beta,
    fused=4e-7,
  )


def _draw(draw, h=1.0):
  def value(x):
    u = np.clip(x, -3e37, 3e37) / np.float32(h)
    p = np.clip((u + 1) / 2, 0, 1)
    return np.where(np.float32(draw) < p, 1.0, -1.0)

  return Row(
    functools.partial(estimators.stochastic_sign, draw=draw, h=h),
    value,
    np.ones_like,
    float(value(np.zeros(1, np.float32))[0]),
    (0.0, h, h * (2 * draw - 1)),
  )


def _dsq(low, high, alpha, bits):
  """The ends and alpha are such that numpy meets each edge where XLA does."""
  n = 2**bits - 1
  step = np.float32(high - low) / np.float32(n)
  k = np.log(2 / alpha - 1)

  def place(x):
    inside = (x >= low) & (x <= high)
    t = (np.where(inside, x, np.float32(low)) - np.float32(low)) / step
    return inside, t, np.minimum(np.floor(t), n - 1)

  def value(x):
    inside, t, i = place(x)
    hard = low + step * (i + (t - i >= 0.5))
    return np.where(inside, hard, np.where(x < low, low, high))

  def tanh(x):
    inside, t, i = place(x)
    return inside, np.tanh(k * (t.astype(np.float64) - i - 0.5))

  def factor(x):
    inside, tanh_ = tanh(x)
    return inside * k * (1 - tanh_**2) / (2 * (1 - alpha))

  def second(x):
    inside, tanh_ = tanh(x)
    return inside * -(k**2) * tanh_ * (1 - tanh_**2) / (1 - alpha) / step

  ends = [low + step * i / 2 for i in range(2 * n + 1)]
  zero = float(value(np.zeros(1, np.float32))[0])
  return Row(
    functools.partial(
      estimators.dsq, low=low, high=high, alpha=alpha, bits=bits
    ),
    value,
    factor,
    zero,
    tuple(float(end) for end in ends),
    second,
    "x",
    rtol=5e-6,
    value_rtol=1e-6,
    fused=4e-7,
  )


def rows() -> dict[str, list[Row]]:
  return {
    "ste_tern": [
      _tern(0.05, 1.0),
      _tern(0.05, None),
      _tern(0.5, 1.5, keep_ties=False, edge="open"),
      _tern(0.0, 1.0),
    ],
    "ste_heaviside": [
      _heaviside(1.0),
      _heaviside(1.0, "open", 1.0),
      _heaviside(None),
    ],
    "swish_sign": [_swish(5.0), _swish(1.0, zero=0.0), _swish(16.0, zero=-1.0)],
    "stochastic_sign": [_draw(0.5), _draw(0.25, 2.0), _draw(0.75, 0.5)],
    "dsq": [_dsq(-1.0, 1.0, 0.2, 1), _dsq(-1.0, 2.0, 0.05, 2)],
  }
