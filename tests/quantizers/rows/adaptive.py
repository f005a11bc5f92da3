"""SiMaN, AdaBin, LAB: values and thresholds that follow the tensor."""

import functools

import numpy as np

from jbin import quantizers
from tests.quantizers.formulas import CHANNEL, EXAMPLE, TENSOR, sign
from tests.quantizers.row import Row, start
from tests.quantizers.rows.sharpening import ALPHA, alpha, bell
from tests.quantizers.standardized import deviation, standardized

AXES = (0, 1)  # all but the channel's


def triangle(v):
  return np.maximum(2 - 2 * abs(v), 0)


# --- SiMaN ------------------------------------------------------------------


def siman_weight(scaled=True):
  def formula(x):
    v, back = standardized(x, CHANNEL, eps=1e-5)
    size = np.sort(abs(v).reshape(-1, x.shape[-1]), axis=0)
    middle = size[-(size.shape[0] // 2)]
    codes = np.where(abs(v) >= middle, 1.0, -1.0)
    scale = ALPHA if scaled else 1.0
    pulls = {"scale": lambda g: (g * codes).sum(AXES)} if scaled else {}
    return scale * codes, lambda g: back(g * scale * np.sign(v)), pulls

  return formula


def siman_activation(zero=1.0):
  def formula(x):
    v, back = standardized(x, EXAMPLE, eps=1e-5)
    return sign(v, zero), lambda g: back(g * triangle(v))

  return formula


def _siman():
  q = quantizers
  return {
    "siman_weight": [
      Row(
        q.siman_weight(), siman_weight(), CHANNEL, variables=alpha, rtol=2e-5
      ),
      Row(q.siman_weight(False), siman_weight(False), rtol=2e-5),
    ],
    "siman_activation": [
      Row(q.siman_activation(), siman_activation(), rtol=2e-5),
      Row(
        q.siman_activation(zero=0.0),
        siman_activation(0.0),
        rtol=2e-5,
        coded=False,
        levels=3,
      ),
    ],
  }


# --- AdaBin -----------------------------------------------------------------


def adabin_weight(t, k=None, zero=1.0):
  def formula(x):
    v, back = standardized(x, CHANNEL, ddof=0)
    s, back_s = deviation(x, CHANNEL)
    m = x.mean(AXES, keepdims=True, dtype=np.float64)
    codes = sign(v, zero)

    def pull(g):
      ds = (g * codes).sum(AXES, keepdims=True)
      dm = g.mean(AXES, keepdims=True)
      return back(g * s * bell(v, t, k)) + back_s(ds) + dm

    return s * codes + m, pull

  return formula


def adabin_activation(a, b, form="code", zero=1.0):
  def formula(x):
    v = (x - np.float64(b)) / a
    codes = sign(v, zero)
    inside = triangle(v)
    if form == "code":
      y, along_a, along_b = a * (codes + b), codes + b, a
    else:
      y, along_a, along_b = a * codes + b, codes, 1.0
    pulls = {
      "a": lambda g: (g * (along_a - inside * v)).sum(),
      "b": lambda g: (g * (along_b - inside)).sum(),
    }
    return y, inside, pulls

  return formula


def _adabin():
  q = quantizers
  weight = functools.partial(Row, kept=CHANNEL, coded=False, rtol=2e-5)
  two = {"a": np.float32(1.25), "b": np.float32(-0.3)}
  activation = functools.partial(
    Row, variables=lambda x: two, coded=False, rtol=1e-5
  )
  return {
    "adabin_weight": [
      weight(q.adabin_weight(), adabin_weight(0.1), progress=0.5),
      weight(q.adabin_weight(2.0, 3.0), adabin_weight(2.0, 3.0)),
      weight(q.adabin_weight(1.0, zero=0.0), adabin_weight(1.0, zero=0.0)),
    ],
    "adabin_activation": [
      activation(q.adabin_activation(), adabin_activation(1.25, -0.3)),
      activation(
        q.adabin_activation("paper"), adabin_activation(1.25, -0.3, "paper")
      ),
      Row(
        q.adabin_activation(zero=0.0),
        adabin_activation(1.0, 0.0, zero=0.0),
        coded=False,
        levels=3,
      ),
    ],
  }


# --- LAB --------------------------------------------------------------------


def _maps(x, kernel, bias):
  """(N, L, C) -> (N, L, C, 2) with the window of three, and its pull-back."""
  padded = np.pad(np.float64(x), ((0, 0), (1, 1), (0, 0)))
  shifts = [padded[:, k : k + x.shape[1]] for k in range(3)]
  maps = sum(
    shift[..., None] * kernel[k] for k, shift in enumerate(shifts)
  ) + bias.reshape(-1, 2)

  def back(dmaps):
    dpadded = np.zeros_like(padded)
    for k in range(3):
      dpadded[:, k : k + x.shape[1]] += (dmaps * kernel[k]).sum(-1)
    dkernel = [(dmaps * s[..., None]).sum(AXES) for s in shifts]
    return dpadded[:, 1:-1], np.stack(dkernel), dmaps.sum(AXES).reshape(-1)

  return maps, back


def lab(quantizer):
  def formula(x):
    values = {n: np.float64(v) for n, v in start(quantizer)(x).items()}
    beta = values.get("beta", quantizer.beta)
    maps, back = _maps(x, values["kernel"], values["bias"])
    flat, channels = maps.reshape(*x.shape[:2], -1), x.shape[-1]
    if quantizer.layout == "code":
      pair = [flat[..., :channels], flat[..., channels:]]
    else:
      pair = [maps[..., 0], maps[..., 1]]
    gap = pair[1] - pair[0]
    slope = 0.5 / np.cosh(beta * gap / 2) ** 2

    def gradients(g):
      d = g * slope * beta
      if quantizer.layout == "code":
        return back(np.concatenate([-d, d], -1).reshape(maps.shape))
      return back(np.stack([-d, d], -1))

    pulls = {
      "kernel": lambda g: gradients(g)[1],
      "bias": lambda g: gradients(g)[2],
    }
    if quantizer.beta is None:
      pulls["beta"] = lambda g: (g * slope * gap).sum()
    return np.where(gap > 0, 1.0, -1.0), lambda g: gradients(g)[0], pulls

  return formula


def _lab():
  make = functools.partial(quantizers.lab_activation, spatial=1)
  members = [make(), make("paper"), make(beta=2.0)]
  return {
    "lab_activation": [
      Row(member, lab(member), TENSOR, rtol=1e-5) for member in members
    ]
  }


def rows():
  return {**_siman(), **_adabin(), **_lab()}
