"""PACT and DSQ: learned ends of the range."""

import jax.numpy as jnp
import numpy as np

from jbin import quantizers
from tests.quantizers.row import Row


def _pact(bits, alpha=10.0):
  n = 2**bits - 1

  def formula(x):
    height = np.float32(alpha)
    steps = np.clip(x, 0, height) * n / height
    tie = abs(steps % 1 - 0.5) < 1e-5
    above = x >= height
    return (
      np.where(tie, np.nan, np.round(steps) * alpha / n),
      (x >= 0) & ~above,
      {"alpha": lambda g: (g * above).sum()},
    )

  return formula


def _height(alpha):
  return lambda x: {"alpha": jnp.full(1, alpha)}


def _dsq(bits, low, high, alpha):
  """The ends are numbers; None: those of the tensor."""
  n = 2**bits - 1

  def formula(x):
    l = np.float64(x.min() if low is None else low)
    u = np.float64(x.max() if high is None else high)
    step = (u - l) / n
    inside, under, over = (x >= l) & (x <= u), x < l, x > u
    t = np.clip((x - l) / step, 0, n)
    i = np.minimum(np.floor(t), n - 1)
    tau = t - i - 0.5
    k = np.log(2 / alpha - 1)
    tanh = np.tanh(k * tau)
    bell = 1 - tanh**2
    soft = i + (tanh / (1 - alpha) + 1) / 2
    slope = k * bell / (2 * (1 - alpha))
    to_high = (soft - slope * t) / n
    rate = tanh / (1 - alpha) ** 2
    rate -= bell * tau * 2 / (alpha * (2 - alpha)) / (1 - alpha)
    value = np.clip(l + step * (i + (tau >= 0)), l, u)
    # A power of two divides without rounding: such a tie is the upper level.
    exact = (tau == 0) & (np.frexp(step)[0] == 0.5)
    either = (abs(tau) < 1e-5) & ~exact
    return (
      np.where(either, np.nan, value),
      inside * slope,
      {
        "low": lambda g: (g * (inside * (1 - slope - to_high) + under)).sum(),
        "high": lambda g: (g * (inside * to_high + over)).sum(),
        "alpha": lambda g: (g * inside * step / 2 * rate).sum(),
      },
    )

  return formula


def rows():
  q = quantizers
  return {
    "pact": [
      Row(q.pact(4), _pact(4)),
      Row(q.pact(2), _pact(2, 1.5), variables=_height(1.5)),
      Row(q.pact(1, init=2.0), _pact(1, 2.0)),
      Row(q.pact(8, init=1.0), _pact(8, 1.0)),
    ],
    "dsq": [
      Row(q.dsq(), _dsq(1, None, None, 0.2), coded=False, second="held"),
      Row(q.dsq(2, -1.5, 1.5, 0.05), _dsq(2, -1.5, 1.5, 0.05), coded=False),
      Row(
        q.dsq(4, 0.0, None, 0.3),
        _dsq(4, 0.0, None, 0.3),
        coded=False,
        second="held",
      ),
      Row(q.dsq(1, -1.0, 1.0), _dsq(1, -1.0, 1.0, 0.2), coded=False),
    ],
  }
