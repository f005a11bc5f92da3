"""Squeeze-and-excite with quantized convolutions."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jbin import bits
from jbin.nn import _conv
from jbin.quantizers import Quantizer


class SqueezeExcite(nnx.Module):
  """A gate in [0, 1] for each channel, from the mean over positions.

  `s = relu(fc1(mean_hw x))`, `gate = clip(fc2(s) + 3, 0, 6) / 6` (the hard
  sigmoid); `fc1` and `fc2` are 1x1 convolutions with bias. The gate is
  returned, not applied, so that it may come from another tensor than the one
  it scales, as in PokeBNN.

  References: Hu et al., 2018 (arXiv 1709.01507); Zhang et al., 2022
  (arXiv 2112.00133).
  """

  def __init__(
    self,
    in_features: int,
    out_features: int,
    hidden: int,
    *,
    input_quantizers: tuple[Quantizer | None, Quantizer | None] = (
      None,
      None,
    ),
    kernel_quantizer: Quantizer | None = None,
    dtype: Any = None,
    rngs: nnx.Rngs,
  ):
    """Makes both convolutions.

    Args:
      in_features: channels of the input.
      out_features: channels of the gate.
      hidden: channels between.
      input_quantizers: for the inputs of the first and second convolution.
      kernel_quantizer: for both kernels.
      dtype: of the computation.
      rngs: for the kernels.
    """
    first, second = input_quantizers
    keywords: dict[str, Any] = {
      "kernel_quantizer": kernel_quantizer,
      "dtype": dtype,
      "rngs": rngs,
    }
    self.fc1 = _conv.Conv(
      in_features, hidden, (1, 1), input_quantizer=first, **keywords
    )
    self.fc2 = _conv.Conv(
      hidden, out_features, (1, 1), input_quantizer=second, **keywords
    )

  def __call__(self, x: jax.Array) -> jax.Array:
    """(N, H, W, in_features) to (N, 1, 1, out_features)."""
    s = bits.mark(x, "se_global_pool_add").mean((1, 2), keepdims=True)
    s = bits.mark(s, "se_global_pool_mul")
    s = bits.mark(jax.nn.relu(self.fc1(s)), "se_relu")
    s = jnp.clip(self.fc2(s) + 3, 0, 6) / 6
    return bits.mark(s, "se_relu6")
