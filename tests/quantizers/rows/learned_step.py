"""LSQ and BiT's elastic activations: a learned step."""

import math

import jax.numpy as jnp
import numpy as np

from jbin import quantizers
from tests.quantizers import formulas
from tests.quantizers.formulas import CHANNEL, SHAPE, TENSOR
from tests.quantizers.row import Row

SHIFT = np.linspace(-0.5, 0.5, SHAPE[-1], dtype=np.float32)


def start(times, kept):
  """x -> the step that `times * mean |x|` gives, as float32."""
  return lambda x: np.float32(
    times * abs(x).mean(formulas.over(x, kept), keepdims=True, dtype=np.float64)
  )


def constant(value):
  return lambda x: np.full((1,) * x.ndim, value, np.float32)


def lsq(low, high, step, *, count=None, shift=None, minimum=False, name="step"):
  """`step`: x -> s; `count`: N, None for all entries, 0 for no factor."""

  def formula(x):
    s = step(x)
    u = x if shift is None else x + shift
    least = u.min() if minimum else np.float32(0)
    v = (u - least) / s
    inside = (v >= low) & (v <= high)
    codes = np.round(np.clip(v, low, high))
    error = np.where(inside, codes - v, codes)
    return s * codes + least, inside, _pulls(x, s, high, error, inside)

  def _pulls(x, s, high, error, inside):
    entries = x.size if count is None else count
    factor = 1 / math.sqrt(entries * high) if entries else 1.0
    over = tuple(axis for axis, n in enumerate(s.shape) if n == 1)
    pulls = {name: lambda g: factor * (g * error).sum(over).squeeze()}
    if shift is not None:
      pulls["shift"] = lambda g: (g * inside).sum((0, 1))
    return pulls

  return formula


def signed_bit(step, *, zero=1.0, shift=None, name="alpha"):
  """One signed bit: a sign whose step learns from its sum."""

  def formula(x):
    a = step(x)
    u = x if shift is None else x + shift
    signs = np.where(u > 0, 1.0, np.where(u < 0, -1.0, zero))
    inside = abs(u) <= a
    factor = 1 / math.sqrt(x.size)
    pulls = {name: lambda g: factor * (g * signs).sum()}
    if shift is not None:
      pulls["shift"] = lambda g: (g * inside).sum((0, 1))
    return a * signs, inside, pulls

  return formula


def given(**values):
  """The learned values as they are, whatever the tensor."""
  values = {k: jnp.asarray(v, jnp.float32) for k, v in values.items()}
  return lambda x: values


def rows():
  q, one = quantizers, SHAPE[1] * SHAPE[2]
  return {
    "lsq": [
      Row(q.lsq(4), lsq(-8, 7, start(2 / math.sqrt(7), TENSOR))),
      Row(
        q.lsq(2, per_channel=True),
        # A channel of zeros has the least step.
        lsq(-2, 1, lambda x: np.maximum(start(2.0, CHANNEL)(x), 1e-8)),
        CHANNEL,
      ),
      Row(
        q.lsq(8, symmetric=True),
        lsq(-127, 127, constant(0.031)),
        variables=given(step=0.031),
      ),
      Row(
        q.lsq(3, signed=False, count="example"),
        lsq(0, 7, constant(0.2), count=one),
        variables=given(step=0.2),
      ),
      Row(
        q.lsq(4, count="none"),
        lsq(-8, 7, constant(0.3), count=0),
        variables=given(step=0.3),
      ),
      Row(q.lsq(1), signed_bit(start(2.0, TENSOR), name="step")),
      Row(
        q.lsq(1, signed=False),
        lsq(0, 1, constant(0.7)),
        variables=given(step=0.7),
      ),
    ],
    "bit_activation": [
      Row(q.bit_activation(), signed_bit(start(2.0, TENSOR))),
      Row(
        q.bit_activation(zero=0.0),
        signed_bit(constant(0.6), zero=0.0),
        variables=given(alpha=0.6),
        coded=False,
        levels=3,
      ),
      Row(
        q.bit_activation(shift=True),
        signed_bit(constant(0.6), shift=SHIFT),
        variables=given(alpha=0.6, shift=SHIFT),
      ),
      Row(
        q.bit_activation(signed=False),
        lsq(0, 1, start(4.0, TENSOR), name="alpha"),
      ),
      Row(
        q.bit_activation(4),
        lsq(-8, 7, start(2 / math.sqrt(7), TENSOR), name="alpha"),
      ),
      Row(
        q.bit_activation(2, signed=False, shift=True),
        lsq(0, 3, constant(0.9), shift=SHIFT, minimum=True, name="alpha"),
        variables=given(alpha=0.9, shift=SHIFT),
        coded=False,  # the minimum is an offset
      ),
      Row(
        q.bit_activation(2, signed=False, minimum=False),
        lsq(0, 3, start(4 / math.sqrt(3), TENSOR), name="alpha"),
      ),
    ],
  }
