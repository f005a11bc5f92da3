"""Larq's, BNN+, ternary weights, BinaryConnect, XNOR-Net's own gradients."""

import jax
import jax.numpy as jnp
import numpy as np

from jbin import quantizers, schedules
from tests.quantizers import formulas
from tests.quantizers.formulas import CHANNEL
from tests.quantizers.row import Row, start


def _swish(beta, learned=False):
  def slope(x):
    u = beta * x.astype(np.float64)
    return (2 - u * np.tanh(u / 2)) / (1 + np.cosh(u))

  def formula(x):
    value, factor = formulas.sign(x), beta * slope(x)
    if not learned:
      return value, factor
    return value, factor, {"beta": lambda g: (g * x * slope(x)).sum()}

  return formula


def _step(clip, inside=np.less_equal, zero=0.0):
  def formula(x):
    y = np.where(x > 0, 1.0, np.where(x < 0, 0.0, zero))
    return y, inside(abs(x), np.inf if clip is None else np.float32(clip))

  return formula


def _ternary(x, threshold, keep_ties=False):
  kept = abs(x) >= threshold if keep_ties else abs(x) > threshold
  return np.sign(x) * kept


def _tern(threshold, clip, keep_ties=True):
  """The threshold is a number; None: a share of the mean magnitude."""

  def formula(x):
    least = np.float32(threshold or 0.7 * abs(x).mean(dtype=np.float64))
    inside = abs(x) <= (np.inf if clip is None else clip)
    return _ternary(x, least, keep_ties), inside

  return formula


def _twn(kept, share=0.7):
  def formula(x):
    over = formulas.over(x, kept)
    wide = abs(x.astype(np.float64))
    codes = _ternary(x, share * wide.mean(over, keepdims=True))
    some = abs(codes).sum(over, keepdims=True)
    scale = (wide * abs(codes)).sum(over, keepdims=True) / np.maximum(some, 1)
    return scale * codes, np.ones_like(x)

  return formula


def _ttq(positive, negative, share=0.05):
  def formula(x):
    codes = _ternary(x, np.float32(share) * abs(x).max())
    above, below = codes > 0, codes < 0
    return (
      positive * above - negative * below,
      np.where(above, positive, np.where(below, negative, 1.0)),
      {
        "positive": lambda g: (g * above).sum(),
        "negative": lambda g: -(g * below).sum(),
      },
    )

  return formula


def _levels(x):
  del x
  return {"positive": jnp.full(1, 1.25), "negative": jnp.full(1, 0.75)}


def _plain_sign(h, zero=1.0):
  """The scale a number, or that of a kernel of x's shape."""

  def formula(x):
    sign = np.where(x == 0, zero, np.sign(x))
    k, fan_in, fan_out = x.shape
    size = h or np.sqrt(1.5 / (k * (fan_in + fan_out)))
    return size * sign, np.ones_like(x)

  return formula


def _draw(x):
  del x
  return {"key": jax.random.key(11)}


def _drawn(h):
  def formula(x):
    draw = np.asarray(jax.random.uniform(_draw(x)["key"], x.shape))
    p = np.clip((x / np.float32(h) + 1) / 2, 0, 1)
    return np.where(draw < p, h, -h), np.ones_like(x)

  return formula


def _xnor(kind, inside):
  def formula(x):
    over = formulas.over(x, CHANNEL)
    n = x[..., 0].size
    s = abs(x).mean(over, keepdims=True, dtype=np.float64)
    sign = formulas.sign(x)
    window = inside(abs(x), 1)
    if kind == "paper":
      return s * sign, s * window + 1 / n

    def pull(g):
      through = (g * sign).sum(over, keepdims=True) / n
      return g * s * window + np.sign(x) * through

    return s * sign, pull

  return formula


def xnor() -> list[Row]:
  """XNOR-Net with the gradients of its paper."""
  q = quantizers.xnor
  return [
    Row(
      q(gradient="paper", edge="open"),
      _xnor("paper", np.less),
      CHANNEL,
      second="held",
    ),
    Row(
      q(gradient="paper"),
      _xnor("paper", np.less_equal),
      CHANNEL,
      second="held",
    ),
    Row(q(gradient="exact", edge="open"), _xnor("exact", np.less), CHANNEL),
  ]


def rows():
  q, half = quantizers, schedules.linear(1.0, 0.5)
  drawn = q.binaryconnect(2.0, "stochastic")
  return {
    "swish_sign": [
      Row(q.swish_sign(), _swish(5.0)),
      Row(q.swish_sign(half), _swish(0.75), progress=0.5),
      Row(q.swish_sign(2.0, learned=True), _swish(2.0, learned=True)),
    ],
    "ste_heaviside": [
      Row(q.ste_heaviside(), _step(1.0)),
      Row(q.ste_heaviside(half), _step(0.75), progress=0.5),
      Row(
        q.ste_heaviside(1.5, "open", zero=1.0),
        _step(1.5, np.less, 1.0),
      ),
      Row(q.ste_heaviside(None), _step(None)),
      Row(
        q.ste_heaviside(zero=0.5), _step(1.0, zero=0.5), coded=False, levels=3
      ),
    ],
    "ste_tern": [
      Row(q.ste_tern(), _tern(0.05, 1.0), levels=3),
      Row(q.ste_tern(half), _tern(0.75, 1.0), progress=0.5, levels=3),
      Row(
        q.ste_tern(ternary_weight_networks=True, clip=None),
        _tern(None, None),
        levels=3,
      ),
      Row(q.ste_tern(0.5, keep_ties=False), _tern(0.5, 1.0, False), levels=3),
    ],
    "twn": [
      Row(q.twn(), _twn(()), levels=3),
      Row(q.twn(CHANNEL), _twn(CHANNEL), CHANNEL, levels=3),
      Row(q.twn(threshold=half), _twn((), 0.75), progress=0.5, levels=3),
    ],
    "ttq": [
      Row(
        q.ttq(),
        _ttq(1.25, 0.75),
        variables=_levels,
        coded=False,
        levels=3,
      ),
      Row(
        q.ttq(half),
        _ttq(1.0, 1.0, 0.75),
        progress=0.5,
        coded=False,
        levels=3,
      ),
    ],
    "binaryconnect": [
      Row(q.binaryconnect(), _plain_sign(1.0)),
      Row(q.binaryconnect(0.5, zero=-1.0), _plain_sign(0.5, -1.0)),
      Row(q.binaryconnect("glorot"), _plain_sign(None)),
      Row(drawn, _drawn(2.0), variables=_draw),
      Row(drawn, _plain_sign(2.0), variables=start(drawn)),
    ],
    "noop": [Row(q.noop(k), formulas.floats, coded=False) for k in (1, 2, 8)],
  }
