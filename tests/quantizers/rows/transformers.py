"""Weights of BiT, BitNet, BiViT, BiBERT, FBI, OneBit; SAB; BitNet's inputs."""

import functools

import numpy as np

from jbin import quantizers, schedules
from tests.quantizers import formulas
from tests.quantizers.formulas import CHANNEL, EXAMPLE, TENSOR
from tests.quantizers.row import Row

TOKEN, BOTH = (0, 1), (-2, -1)


def sign(x, zero):
  return np.where(x > 0, 1.0, np.where(x < 0, -1.0, zero))


def mean(x, kept=TENSOR):
  over = formulas.over(x, kept)
  return x.mean(over, keepdims=True, dtype=np.float64)


def about_mean(kept, zero):
  return lambda x: (
    mean(abs(x), kept) * sign(x - mean(x), zero),
    np.ones_like(x),
  )


def ternary(x):
  m = max(float(mean(abs(x)).squeeze()), 1e-5)
  return m * np.clip(np.round(x / m), -1, 1), np.ones_like(x)


def token_integers(top, clip, over=-1):
  def formula(x):
    largest = np.maximum(abs(x).max(over, keepdims=True), np.float32(1e-5))
    scale = np.float32(top) / largest
    steps = x * scale
    tie = abs(abs(steps) % 1 - 0.5) < 1e-5
    codes = np.round(np.clip(steps, -top + clip, top - clip))
    return np.where(tie, np.nan, codes / scale), np.ones_like(x)

  return formula


def rows_about_mean(kept, inside, *, zero=1.0, scaled, learned=False):
  """BiViT and BiBERT: `inside` says of |v| where gradients pass."""

  def formula(x):
    over, s = formulas.over(x, kept), mean(abs(x), kept)
    v = x - mean(x, kept)
    signs = sign(v, zero)

    def pull(g):
      dv = g * inside(abs(v)) * (s if scaled else 1.0)
      return dv - dv.mean(over, keepdims=True)

    pulls = {"alpha": lambda g: (g * signs).sum(over)} if learned else {}
    return s * signs, pull, pulls

  return formula


def softmax_aware(beta, scaled=False):
  def formula(x):
    most = x.max(-1, keepdims=True)
    codes = x >= np.minimum(np.float32(beta) * most, most)
    if not scaled:
      return codes, np.ones_like(x)
    total = (x * codes).sum(-1, keepdims=True, dtype=np.float64)
    return codes * total / codes.sum(-1, keepdims=True), np.ones_like(x)

  return formula


def fbi(kept, zero=1.0):
  def formula(x):
    over = formulas.over(x, kept)
    beta = mean(x, kept)
    alpha = mean(abs(x - beta), kept)
    signs = sign(x, zero)
    pulls = {
      "alpha": lambda g: (g * signs).sum(over),
      "beta": lambda g: g.sum(over),
    }
    return alpha * signs + beta, lambda g: g * alpha, pulls

  return formula


FACTORS = {
  "input_factor": np.linspace(-0.5, 2, formulas.SHAPE[1], dtype=np.float32),
  "weight_scale": np.linspace(2, 0.1, formulas.SHAPE[2], dtype=np.float32),
}


def onebit(zero=1.0, given=None):
  def formula(x):
    if given:
      left, right = given["input_factor"][:, None], given["weight_scale"]
    else:  # the best product of two vectors, by what singular ones are
      u, s, v = np.linalg.svd(abs(x).mean(0, dtype=np.float64))
      left, right = np.sqrt(s[0]) * abs(u[:, :1]), np.sqrt(s[0]) * abs(v[0])
    signs = sign(x, zero)
    pulls = {
      "input_factor": lambda g: (g * signs * right).sum((0, 2)),
      "weight_scale": lambda g: (g * signs * left).sum((0, 1)),
    }
    factor = 1.001 - np.tanh(x.astype(np.float64)) ** 2
    return signs * left * right, left * right * factor, pulls

  return formula


def below(v):
  return v < 1


def up_to(v):
  return v <= 1


def rows():
  q, half = quantizers, schedules.linear(1.0, 0.5)
  bivit = rows_about_mean(CHANNEL, below, scaled=True, learned=True)
  # An offset keeps the codes from products.
  offset = functools.partial(Row, coded=False, second="held")
  return {
    "bit_weight": [
      Row(q.bit_weight(), about_mean(TENSOR, 1.0)),
      Row(q.bit_weight(CHANNEL), about_mean(CHANNEL, 1.0), CHANNEL),
      Row(q.bit_weight(EXAMPLE), about_mean(EXAMPLE, 1.0), EXAMPLE),
      # A tensor without its own mean among its entries has no zero.
      Row(q.bit_weight(zero=0.0), about_mean(TENSOR, 0.0), coded=False),
    ],
    "bitnet_weight": [
      Row(q.bitnet_weight(), about_mean(TENSOR, -1.0)),
      Row(q.bitnet_weight(zero=1.0), about_mean(TENSOR, 1.0)),
    ],
    "bitnet158_weight": [Row(q.bitnet158_weight(), ternary, levels=3)],
    "bitnet_activation": [
      Row(q.bitnet_activation(), token_integers(127, 0.0), TOKEN),
      Row(q.bitnet_activation(4), token_integers(7, 0.0), TOKEN),
      Row(q.bitnet_activation(8, True), token_integers(128, 1e-5), TOKEN),
      Row(q.bitnet_activation(8, True, False), token_integers(128, 1e-5, None)),
    ],
    "bivit_weight": [
      Row(q.bivit_weight(), bivit, CHANNEL, second="held"),
      Row(
        q.bivit_weight(learned=False),
        rows_about_mean(CHANNEL, below, scaled=True),
        CHANNEL,
        second="held",
      ),
      Row(
        q.bivit_weight(zero=0.0),
        rows_about_mean(CHANNEL, below, zero=0.0, scaled=True, learned=True),
        CHANNEL,
        coded=False,
        levels=3,
        second="held",
      ),
    ],
    "sab": [
      Row(q.sab(), softmax_aware(0.25)),
      Row(q.sab(half), softmax_aware(0.75), progress=0.5),
      Row(q.sab(scaled=True), softmax_aware(0.25, True), TOKEN),
    ],
    "bibert_weight": [
      Row(
        q.bibert_weight(),
        rows_about_mean(CHANNEL, up_to, scaled=False),
        CHANNEL,
      ),
      Row(
        q.bibert_weight(EXAMPLE),
        rows_about_mean(EXAMPLE, up_to, scaled=False),
        EXAMPLE,
      ),
      Row(
        q.bibert_weight(zero=0.0),
        rows_about_mean(CHANNEL, up_to, zero=0.0, scaled=False),
        CHANNEL,
        coded=False,
        levels=3,
      ),
    ],
    "onebit_weight": [
      # No way keeps singular vectors still; the next row has fixed factors.
      Row(q.onebit_weight(), onebit(), BOTH, second="finite", rtol=1e-5),
      Row(
        q.onebit_weight(zero=0.0),
        onebit(0.0, FACTORS),
        BOTH,
        variables=lambda x: FACTORS,
        coded=False,
        levels=3,
      ),
    ],
    "fbi_weight": [
      offset(q.fbi_weight(), fbi((-2,)), (-2,)),
      offset(q.fbi_weight("row"), fbi(CHANNEL), CHANNEL),
      offset(q.fbi_weight("single"), fbi(TENSOR)),
      offset(q.fbi_weight(zero=0.0), fbi((-2,), 0.0), (-2,), levels=3),
    ],
  }
