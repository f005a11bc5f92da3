"""How golden vectors are compared: values, gradients, modules."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

Vectors = Mapping[str, np.ndarray]


def close(got, want, atol=1e-5):
  """Forward values: absolute."""
  np.testing.assert_allclose(np.asarray(got), want, rtol=1e-5, atol=atol)


def close_gradient(got, want, tol=1e-4, floor=1e-12):
  """Gradients: relative to the largest entry, down to a floor."""
  got, want = np.asarray(got), np.asarray(want)
  assert got.shape == want.shape
  scale = np.abs(want).max()
  np.testing.assert_allclose(got, want, rtol=0, atol=tol * scale + floor)


def pull(function, g, *args):
  """Value and gradients, compiled once."""

  @jax.jit
  def run(g, *args):
    y, back = jax.vjp(function, *args)
    return y, back(g)

  return run(jnp.asarray(g), *map(jnp.asarray, args))


def value(quantized):
  return quantized.value


def vjp_of(module, x, g):
  """Output, input gradient and parameter gradients of an NNX module."""
  graphdef, params, rest = nnx.split(module, nnx.Param, ...)

  @jax.jit
  def run(params, rest, x, g):
    def apply(params, x):
      merged = nnx.merge(graphdef, params, rest, copy=True)
      y = merged(x)
      return y, nnx.state(merged, nnx.Not(nnx.Param))

    y, back, new = jax.vjp(apply, params, x, has_aux=True)
    return y, new, *back(g)

  return run(params, rest, jnp.asarray(x), jnp.asarray(g))


class Reader(dict[str, np.ndarray]):
  """A file's arrays, which remembers what was read."""

  def __init__(self, arrays: Vectors):
    super().__init__(arrays)
    self.unread = set(arrays)

  def __getitem__(self, key):
    self.unread.discard(key)
    return super().__getitem__(key)

  def get(self, key, default=None):
    self.unread.discard(key)
    return super().get(key, default)

  def all_read(self):
    assert not self.unread, f"no check reads {sorted(self.unread)}"
