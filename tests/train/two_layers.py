"""A net whose kernels are all binary; only its norms have float parameters."""

import jax
from flax import nnx

from jbin import models, nn, quantizers


def all_binary(
  width: int = 64,
  kernel: quantizers.Quantizer | None = None,
  inputs: quantizers.Quantizer | None = None,
  num_classes: int = 10,
  in_features: int = 1,
  *,
  rngs: nnx.Rngs,
) -> nnx.Module:
  """Two layers of low-bit weights, each before a norm."""
  return Binary(width, kernel, inputs, num_classes, in_features, rngs)


class Binary(nnx.Module):
  def __init__(self, width, kernel, inputs, num_classes, in_features, rngs):
    given = {"use_bias": False, "rngs": rngs, "kernel_quantizer": kernel}
    self.first = nn.Linear(64 * in_features, width, **given)
    self.norm = nnx.BatchNorm(width, rngs=rngs)
    self.second = nn.Linear(width, num_classes, input_quantizer=inputs, **given)
    self.last = nnx.BatchNorm(num_classes, rngs=rngs)

  def __call__(self, x):
    x = self.norm(self.first(x.reshape(x.shape[0], -1)))
    return self.last(self.second(jax.nn.hard_tanh(x)))


if "all_binary" not in models.REGISTRY:
  models.REGISTRY.register(all_binary)
