"""PyTorch layers of a file, as `nn.Conv` or `nn.Linear` with two quantizers.

Arrays are channels first, kernels output channel first.
"""

import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jbin import nn, quantizers, schedules
from tests.golden.compare import Vectors, vjp_of

Learned = Mapping[str, np.ndarray]


def groups(z: Vectors, pattern: str):
  """{the pattern's groups: {rest of the key: array}}; every key must fit."""
  found: dict[tuple[str, ...], dict[str, np.ndarray]] = {}
  for key in z:
    fitting = re.match(pattern, key)
    assert fitting, f"{key}: no check reads it"
    found.setdefault(fitting.groups(), {})[key[fitting.end() :]] = z[key]
  assert found
  return found


def tensor(x: np.ndarray) -> np.ndarray:
  """(N, C, ...) to (N, ..., C)."""
  return np.moveaxis(x, 1, -1)


def kernel(w: np.ndarray) -> np.ndarray:
  """(out, in, ...) to (..., in, out)."""
  return np.moveaxis(np.moveaxis(w, 0, -1), 0, -2)


def near(got, want, tolerance: float):
  """Values: relative to each entry, and absolute below 1."""
  got, want = np.asarray(got), np.asarray(want)
  assert got.shape == want.shape
  excess = abs(got - want) / np.maximum(1, abs(want))
  assert excess.max() <= tolerance, excess.max()


def alone(quantizer: quantizers.Quantizer, x, g, progress=0.0, **values):
  """Value, gradient of x and gradients of the values, of one quantizer."""
  values = {name: jnp.asarray(value) for name, value in values.items()}

  @jax.jit
  def run(x, g, values):
    def value(x, values):
      at = jnp.float32(progress)
      return quantizer(x, progress=at, **values).value

    y, back = jax.vjp(value, x, values)
    return y, *back(g)

  return run(jnp.asarray(x), jnp.asarray(g), values)


def layer(
  arrays: Vectors,
  inputs: quantizers.Quantizer,
  kernels: quantizers.Quantizer,
  *,
  weight: str = "weight",
  bias: np.ndarray | None = None,
  learned: tuple[Learned, Learned] = ({}, {}),
  statistics: Learned | None = None,
  progress: float = 0.0,
  linear: bool = False,
) -> nn.Conv | nn.Linear:
  """The layer of a case: its weights, and its quantizers with their values."""
  w = arrays[weight].T if linear else kernel(arrays[weight])
  options = {
    "use_bias": bias is not None,
    "input_quantizer": inputs,
    "kernel_quantizer": kernels,
    "rngs": nnx.Rngs(0),
  }
  if linear:
    made = nn.Linear(*w.shape, **options)
  else:
    stride, pad = map(int, arrays["stride_pad"])
    padding = [(pad, pad)] * (w.ndim - 2)
    made = nn.Conv(
      *w.shape[-2:], w.shape[:-2], stride, padding=padding, **options
    )
  made.kernel[...] = jnp.asarray(w)
  if bias is not None:
    made.bias[...] = jnp.asarray(bias)
  parts = (made.input_quantizer, made.kernel_quantizer)
  for part, values in zip(parts, learned, strict=True):
    assert set(part.learned) == set(values)
    for name, value in values.items():
      part.learned[name][...] = jnp.asarray(value)
  for name, value in (statistics or {}).items():
    made.kernel_quantizer.statistics[name][...] = jnp.asarray(value)
  return schedules.set_progress(made, progress)


def gradients(layer: nn.Conv, arrays: Vectors):
  """Output, new statistics, parameter gradients and input gradient."""
  return vjp_of(layer, tensor(arrays["x"]), tensor(arrays["gy"]))


def learned_gradient(dparams, part: str, name: str) -> np.ndarray:
  """Of what a layer's quantizer of the "input" or "kernel" learns."""
  return np.asarray(dparams[f"{part}_quantizer"]["learned"][name][...])
