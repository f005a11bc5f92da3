"""The table: every estimator with its options, in plain numpy."""

import functools

import numpy as np

from jbin import estimators
from tests.estimators import rows_classic, rows_fourier, rows_schedules
from tests.estimators.row import Array, Row, sign

__all__ = ["ROWS", "Array", "Row", "sign"]


def _ste(clip, zero=1.0, edge="closed", keep="bits"):
  inside = np.less if edge == "open" else np.less_equal
  options = {"clip": clip, "edge": edge, "zero": zero, "keep": keep}
  return Row(
    functools.partial(estimators.ste_sign, **options),
    sign(zero),
    lambda x: inside(abs(x), np.inf if clip is None else np.float32(clip)),
    zero,
    (0.0, 1.0 if clip is None else clip),
    keeps="x" if keep == "input" else "bits",
  )


def _poly(zero):
  return Row(
    functools.partial(estimators.approx_sign, zero=zero),
    sign(zero),
    lambda x: np.maximum(2 - 2 * abs(x), 0),
    zero,
    (0.0, 1.0),
    lambda x: np.where(abs(x) < 1, -2 * np.sign(x), 0),
    "x",
  )


def _tanh(zero):
  return Row(
    functools.partial(estimators.onebit_sign, zero=zero),
    sign(zero),
    lambda x: 0.001 + 1 / np.cosh(np.minimum(abs(x), 50.0)) ** 2,
    zero,
    (0.0,),
    lambda x: -2 * np.tanh(x) / np.cosh(np.minimum(abs(x), 50.0)) ** 2,
    "x",
    fused=1e-6,
  )


def _round(low, high, rounding="even", edge="closed", clip_first=True):
  step = {
    "even": np.round,
    "up": lambda x: np.floor(x + np.asarray(0.5, x.dtype)),
    "floor": np.floor,
  }[rounding]
  clip = lambda x: np.clip(
    x, np.asarray(low, x.dtype), np.asarray(high, x.dtype)
  )

  def factor(x):
    u = x if clip_first else step(x)
    at_edge = {"closed": 1.0, "open": 0.0, "half": 0.5}[edge]
    return np.where((u == low) | (u == high), at_edge, (low < u) & (u < high))

  return Row(
    functools.partial(
      estimators.clipped_round,
      low=low,
      high=high,
      rounding=rounding,
      edge=edge,
      clip_first=clip_first,
    ),
    lambda x: step(clip(x)) if clip_first else clip(step(x)),
    factor,
    0.0,
    (low, high, low + 0.5, high - 0.5, 0.5, 1.5, 2.5, high + 0.5, high + 1),
  )


ROWS: dict[str, list[Row]] = {
  "ste_sign": [
    _ste(1.0),
    _ste(1.0, edge="open"),
    _ste(1.0, edge="open", keep="input"),
    _ste(1.5, zero=-1.0),
    _ste(None, zero=0.0),
    _ste(0.0),
    _ste(0.0, edge="open"),
  ],
  "approx_sign": [_poly(1.0), _poly(0.0)],
  "onebit_sign": [_tanh(1.0), _tanh(0.0)],
  "clipped_round": [
    _round(-7.0, 7.0),
    _round(-7, 7, edge="open"),
    _round(-7, 7, rounding="up", edge="half"),
    _round(0, 15, rounding="floor", edge="half", clip_first=False),
    _round(-3, 3, rounding="even", edge="closed", clip_first=False),
  ],
  **rows_schedules.rows(),
  **rows_classic.rows(),
  **rows_fourier.rows(),
}
