"""ABC-Net's bases and LQ-Nets' learned ones."""

import itertools

import jax.numpy as jnp
import numpy as np

from jbin import quantizers
from tests.quantizers.formulas import CHANNEL, SHAPE
from tests.quantizers.row import Row


def _near(x, at):
  """Where rounding decides on which side of a threshold an entry is."""
  return (abs(x - at) < 1e-5) & (x != at)


def _abc_weight(count, kept):
  shifts = np.linspace(-1, 1, count) if count > 1 else np.zeros(1)

  def one(w):
    deviation = w - w.mean()
    argument = [deviation + u * w.std() for u in shifts]
    bases = np.stack([np.where(a >= 0, 1.0, -1.0) for a in argument], -1)
    flat = bases.reshape(-1, count)
    alpha = np.linalg.lstsq(flat, w.ravel(), rcond=1e-5)[0]
    either = np.any([_near(a, 0) for a in argument], 0)
    return np.where(either, np.nan, bases @ alpha), np.full(
      w.shape, alpha.sum()
    )

  def formula(x):
    wide = x.astype(np.float64)
    if not kept:
      return one(wide)
    each = [one(wide[..., c]) for c in range(x.shape[-1])]
    return tuple(np.stack(part, -1) for part in zip(*each, strict=True))

  return formula


def _abc_activation(beta, shift):
  def formula(x):
    # In float32: u meets an edge where the quantizer's does.
    u = x[..., None] + (np.float32(shift) - np.float32(0.5))
    signs = np.where(u >= 0, 1.0, -1.0)
    inside = abs(u) <= 0.5
    return (
      signs @ beta,
      inside @ beta,
      {
        "beta": lambda g: (g[..., None] * signs).sum((0, 1, 2)),
        "shift": lambda g: beta * (g[..., None] * inside).sum((0, 1, 2)),
      },
    )

  return formula


def _learned(beta, shift):
  def variables(x):
    del x
    return {
      "beta": jnp.asarray(beta, jnp.float32),
      "shift": jnp.asarray(shift, jnp.float32),
    }

  return variables


def _nearest(x, basis, codes):
  """x against one basis: the level of each entry, NaN where either would do."""
  levels = np.sort(np.float32(codes) @ np.float32(basis))
  middles = (levels[1:] + levels[:-1]) / 2
  index = (x[..., None] > middles).sum(-1)
  either = _near(x[..., None], middles).any(-1)
  return np.where(either, np.nan, levels[index]), levels[-1]


def _weight_basis(bits):
  def variables(x):
    del x
    spread = np.linspace(0.5, 1.5, SHAPE[-1])[:, None]
    start = quantizers.lqnet_weight(bits).statistics(SHAPE[-1])["basis"]
    return {"basis": jnp.asarray(spread * start, jnp.float32)}

  return variables


def _lq_weight(bits):
  codes = np.array(list(itertools.product((-1, 1), repeat=bits)))

  def formula(x):
    basis = np.asarray(_weight_basis(bits)(x)["basis"])[:, ::-1]
    each = [_nearest(x[..., c], basis[c], codes)[0] for c in range(SHAPE[-1])]
    return np.stack(each, -1), np.ones_like(x)

  return formula


def _lq_activation(bits, basis=None):
  codes = np.array(list(itertools.product((0, 1), repeat=bits)))
  quantizer = quantizers.lqnet_activation(bits)
  if basis is None:
    basis = np.asarray(quantizer.statistics(SHAPE[-1])["basis"])

  def formula(x):
    value, top = _nearest(x, np.asarray(basis)[::-1], codes)
    return value, x <= top

  return Row(
    quantizer,
    formula,
    variables=lambda x: {"basis": jnp.asarray(basis, jnp.float32)},
    coded=bits == 1,
  )


def _abc_activation_row(beta, shift):
  return Row(
    quantizers.abcnet_activation(len(beta)),
    _abc_activation(np.array(beta), shift),
    variables=_learned(beta, shift),
    coded=len(beta) == 1,
    levels=len(beta) + 1,
  )


def rows():
  q = quantizers
  start = q.abcnet_activation(2, (0.0, 0.25))
  return {
    "abcnet_weight": [
      Row(
        q.abcnet_weight(m, kept),
        _abc_weight(m, kept),
        kept,
        coded=m == 1,
        levels=m + 1,
        # More alphas are means of parts of x, which do not stand still.
        second="held" if m == 1 else "finite",
      )
      for m, kept in ((3, ()), (5, ()), (3, CHANNEL), (1, ()), (1, CHANNEL))
    ],
    "abcnet_activation": [
      _abc_activation_row((1.0, 0.5, 0.25), (-1.0, 0.0, 0.5)),
      _abc_activation_row((0.75,), (0.25,)),
      Row(
        start,
        _abc_activation(np.ones(2), (0.0, 0.25)),
        coded=False,
        levels=3,
      ),
    ],
    "lqnet_weight": [
      Row(
        q.lqnet_weight(bits),
        _lq_weight(bits),
        CHANNEL,
        variables=_weight_basis(bits),
        coded=bits == 1,
      )
      for bits in (2, 1, 3, 4)
    ],
    "lqnet_activation": [
      _lq_activation(2),
      _lq_activation(1),
      _lq_activation(3, (0.1, 0.4, 0.15)),
      _lq_activation(2, (0.5, -0.25)),
      _lq_activation(1, (-0.5,)),
    ],
  }
