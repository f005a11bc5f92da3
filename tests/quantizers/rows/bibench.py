"""Bi-Real Net, XNOR-Net++, ReActNet, ReCU and FDA-BNN, as BiBench has them."""

import numpy as np

from jbin import quantizers, schedules
from tests.quantizers.formulas import CHANNEL, EXAMPLE, SHAPE, sign
from tests.quantizers.row import Row
from tests.quantizers.standardized import standardized

C = SHAPE[-1]
SCALE = np.linspace(-0.5, 1.55, C, dtype=np.float32)
THRESHOLD = np.linspace(-0.3, 0.45, C, dtype=np.float32)  # one is 0
TERNARY = {"coded": False, "levels": 3}  # sign(0) = 0


def triangle(u):
  return np.maximum(2 - 2 * abs(u), 0)


def bireal(zero):
  return lambda x: (sign(x, zero), triangle(x))


def xnorpp(edge, zero):
  def formula(x):
    inside = abs(x) < 1 if edge == "open" else abs(x) <= 1
    scale = lambda g: (g * sign(x, zero)).sum((0, 1))
    return SCALE * sign(x, zero), SCALE * inside, {"scale": scale}

  return formula


def rsign(shifted, zero):
  def formula(x):
    u = x + THRESHOLD
    threshold = lambda g: (g * triangle(u)).sum((0, 1))
    value = sign(u if shifted else x, zero)
    return value, triangle(u), {"threshold": threshold}

  return formula


def recu_weight(tau, learned, zero):
  def formula(x):
    v, back = standardized(x, CHANNEL, eps=1e-5)
    v = 2 * np.sqrt(2) * v
    with np.errstate(divide="ignore"):
      inside = abs(v) <= -abs(v).mean() * np.log(2 - 2 * np.float64(tau))
    s = SCALE if learned else 1.0
    pull = lambda g: back(2 * np.sqrt(2) * g * s * inside)
    scale = lambda g: (g * sign(v, zero)).sum((0, 1))
    return s * sign(v, zero), pull, {"scale": scale} if learned else {}

  return formula


def recu_activation(kept, zero):
  def formula(x):
    v, back = standardized(x, kept, eps=1e-5, centered=False)
    return sign(x, zero), lambda g: back(g * triangle(v))

  return formula


def nets(width, hidden=3):
  draw = np.random.default_rng(5).normal
  return {
    "fc1": np.float32(draw(size=(width, hidden)) / np.sqrt(width)),
    "fc2": np.float32(draw(size=(hidden, width))),
  }


def fourier(x, n, omega):
  angles = omega * (2 * np.arange(n + 1) + 1) * x[..., None]
  return 4 * omega / np.pi * np.cos(angles).sum(-1) * (abs(x) <= 1)


def fda(n, alpha, *, weights, omega=0.1, zero=1.0):
  """alpha None: no noise net."""

  def formula(x):
    x = x.astype(np.float64)
    s = abs(x).mean((0, 1)) if weights else 1.0
    if alpha is None:
      return s * sign(x, zero), s * fourier(x, n, omega), {}
    rows = (
      (lambda a: a.reshape(-1, C).T)
      if weights
      else (lambda a: a.reshape(-1, C))
    )
    whole = (
      (lambda a: a.T.reshape(SHAPE))
      if weights
      else (lambda a: a.reshape(SHAPE))
    )
    f = rows(x)
    net = nets(f.shape[1])
    before = f @ net["fc1"]
    hidden = np.maximum(before, 0)
    noise = whole(hidden @ net["fc2"] + 0.1 * np.sin(f))

    def parts(g):
      de = rows(alpha * g * s)
      return de, (de @ net["fc2"].T) * (before > 0)

    def pull(g):
      de, dh = parts(g)
      df = dh @ net["fc1"].T + de * 0.1 * np.cos(f)
      return g * s * fourier(x, n, omega) + whole(df)

    return (
      s * (sign(x, zero) + alpha * noise),
      pull,
      {
        "fc1": lambda g: f.T @ parts(g)[1],
        "fc2": lambda g: hidden.T @ parts(g)[0],
      },
    )

  return formula


def noisy(quantizer, formula, width, progress=None, **options):
  return Row(
    quantizer,
    formula,
    progress=progress,
    variables=lambda x: nets(width),
    coded=False,
    levels=0,  # any number, while there is noise
    rtol=4e-6,
    **options,
  )


def rows():
  q, at = quantizers, schedules.constant
  scale = {"variables": lambda x: {"scale": SCALE}}
  threshold = {"variables": lambda x: {"threshold": THRESHOLD}}
  filters = SHAPE[0] * SHAPE[1]
  tau = 0.85 + 0.14 * np.expm1(0.5) / np.expm1(1.0)
  alpha = 0.05 * (1 + np.cos(np.pi * 0.25))
  return {
    "bireal": [
      Row(q.bireal(), bireal(1.0)),
      Row(q.bireal(zero=0.0), bireal(0.0), **TERNARY),
    ],
    "xnorpp": [
      Row(q.xnorpp(), xnorpp("closed", 1.0), CHANNEL, **scale),
      Row(
        q.xnorpp("open", 0.0), xnorpp("open", 0.0), CHANNEL, **scale, **TERNARY
      ),
    ],
    "rsign": [
      Row(q.rsign(), rsign(True, 1.0), **threshold),
      Row(q.rsign(shifted=False), rsign(False, 1.0), **threshold),
      Row(q.rsign(zero=0.0), rsign(True, 0.0), **threshold, **TERNARY),
    ],
    "recu_weight": [
      Row(q.recu_weight(), recu_weight(tau, True, 1.0), CHANNEL, 0.5, **scale),
      Row(q.recu_weight(0.9, False), recu_weight(0.9, False, 1.0)),
      Row(q.recu_weight(1.0, False, 0.0), recu_weight(1, False, 0), **TERNARY),
    ],
    "recu_activation": [
      Row(q.recu_activation(), recu_activation(EXAMPLE, 1.0)),
      Row(q.recu_activation((0, 1)), recu_activation((0, 1), 1.0)),
      Row(q.recu_activation(standardized=False), bireal(1.0)),
      Row(q.recu_activation(zero=0.0), recu_activation(EXAMPLE, 0), **TERNARY),
    ],
    "fda_weight": [
      noisy(
        q.fda_weight(),
        fda(11, alpha, weights=True),
        filters,
        0.25,
        second="held",
      ),
      noisy(
        q.fda_weight(5, at(0.3), 1.0, 0.0),
        fda(5, 0.3, weights=True, omega=1.0, zero=0.0),
        filters,
        0.0,
        second="held",
      ),
      Row(
        q.fda_weight(18, 0),
        fda(18, None, weights=True),
        CHANNEL,
        second="held",
      ),
      Row(
        q.fda_weight(9, 0, zero=0.0),
        fda(9, None, weights=True, zero=0.0),
        CHANNEL,
        second="held",
        **TERNARY,
      ),
    ],
    "fda_activation": [
      noisy(q.fda_activation(), fda(11, alpha, weights=False), C, 0.25),
      noisy(
        q.fda_activation(5, 0.3, 1.0, 0.0),
        fda(5, 0.3, weights=False, omega=1.0, zero=0.0),
        C,
      ),
      Row(q.fda_activation(18, 0), fda(18, None, weights=False)),
      Row(
        q.fda_activation(9, 0, zero=0.0),
        fda(9, None, weights=False, zero=0.0),
        **TERNARY,
      ),
    ],
  }
