"""The quantizers in plain numpy: x -> (value, dy/dx), float32."""

import jax.numpy as jnp
import numpy as np

EPS = np.finfo(np.float32).eps
# Of what is quantized, and the axes that a scale may vary along.
SHAPE = (8, 5, 16)
CHANNEL, EXAMPLE, TENSOR = (-1,), (0,), ()


def tensor():
  """Random, with edges, both zeros and a channel of zeros."""
  x = np.random.default_rng(3).normal(size=SHAPE).astype(np.float32)
  edges = [1.0, -1.0, 1.5, -1.5, 0.0, -0.0, 3 * (1 - 2.0**-7), 2.0, 0.5, 0.25]
  x[0, : len(edges) // 2, 1] = edges[::2]
  x[0, : len(edges) // 2, 2] = edges[1::2]
  x[..., 3] = 0.0
  return x


def over(x, kept):
  return tuple(a for a in range(x.ndim) if a not in [k % x.ndim for k in kept])


def sign(x, zero=1.0):
  if zero == 1.0:
    return np.where(x >= 0, np.float32(1), np.float32(-1))
  return np.where(x > 0, 1.0, np.where(x < 0, -1.0, zero)).astype(np.float32)


def plain(clip, edge="closed", zero=1.0):
  inside = np.less if edge == "open" else np.less_equal
  return lambda x: (sign(x, zero), inside(abs(x), np.float32(clip)))


def xnor(kept, keep_scale=False, edge="closed", zero=1.0):
  def formula(x):
    s = abs(x).mean(over(x, kept), keepdims=True, dtype=np.float64)
    inside = abs(x) < 1 if edge == "open" else abs(x) <= 1
    return s * sign(x, zero), inside * (s if keep_scale else 1.0)

  return formula


def xnor_centered(kept, keep_scale):
  def formula(x):
    axes = over(x, kept)
    v = x - x.mean(axes, keepdims=True, dtype=np.float64)
    s = abs(v).mean(axes, keepdims=True)

    def pull(g):
      dv = g * (abs(v) <= 1) * (s if keep_scale else 1.0)
      return dv - dv.mean(axes, keepdims=True)

    return s * sign(v), pull

  return formula


def dorefa_weight(k, scaled_sign=True):
  n = 2**k - 1

  def formula(x):
    if k == 1 and scaled_sign:
      return abs(x).mean(dtype=np.float64) * sign(x), np.ones_like(x)
    t = np.tanh(x)
    largest = abs(t).max() or np.float32(1)
    v = t / (2 * largest) + np.float32(0.5)
    return 2 * np.round(n * v) / n - 1, (1 - t**2) / largest

  return formula


def dorefa_activation(k):
  n = np.float32(2**k - 1)
  return lambda x: (
    np.round(n * np.clip(x, 0, 1)) / n,
    (x >= 0) & (x * n <= n),
  )


def poke_binary(bound):
  """The bound a number, or one for each channel of x."""

  def formula(x):
    b = np.float32(bound) if bound else abs(x).max((0, 1), keepdims=True)
    inside = abs(x) < np.float32(1 - 2.0**-7) * b
    return sign(x) * (b + EPS) / 2, inside

  return formula


def poke_integer(p, kept, signed=True):
  def formula(x):
    b = abs(x).max(over(x, kept), keepdims=True) + EPS
    limit = np.float32(2 ** (p - 1) - 1 if signed else 2**p)
    steps = x * (limit / b)
    if signed:
      low, high, u = -limit, limit, steps
      codes = np.floor(np.clip(steps, low, high) + np.float32(0.5))
    else:
      low, high, u = 0, limit - 1, np.floor(steps)
      codes = np.clip(u, low, high)
    factor = ((u > low) & (u < high)) + 0.5 * ((u == low) | (u == high))
    return codes / (limit / b), factor

  return formula


def floats(x):
  return x, np.ones_like(x)


def bounds(kept):
  def variables(x):
    measured = abs(x).max(over(x, kept))
    return {"bounds": jnp.asarray(np.reshape(measured, -1), jnp.float32)}

  return variables


def unset(x):
  return {"bounds": jnp.full(x.shape[-1], -1.0)}
