"""Signs with a fixed gradient."""

from __future__ import annotations

from jbin import quantizers, schedules
from jbin.methods import _base


@_base.REGISTRY.register
def bnn() -> _base.Pair:
  """BinaryNet: plain signs of both (arXiv 1602.02830).

  Wants: hard tanh, latent weights clipped to [-1, 1].
  """
  return _base.pair(quantizers.sign(), quantizers.sign())


@_base.REGISTRY.register
def xnornet() -> _base.Pair:
  """XNOR-Net: signs with the mean magnitude of each example and each filter.

  Wants: a norm before each binary layer. Its released code scales kernels
  only, as `dorefa` with a scale for each filter does; the map K of the paper
  is `xnornet_k`. Reference: arXiv 1603.05279.
  """
  return _base.pair(quantizers.xnor(axes=(0,)), quantizers.xnor())


@_base.REGISTRY.register
def xnornet_k() -> _base.Pair:
  """XNOR-Net with its map K: signs of inputs, the mean magnitude of filters.

  Wants: K itself, which scales each position of a convolution's output:
  `output_scale=nn.XnorMap` of the rule, or `nn.XnorMap()` of the layer; a norm
  before each binary layer. Reference: arXiv 1603.05279.
  """
  return _base.pair(quantizers.sign(), quantizers.xnor())


@_base.REGISTRY.register
def dorefa(bits: int = 1, activation_bits: int | None = None) -> _base.Pair:
  """DoReFa-Net: weights and activations of k bits on uniform levels.

  One bit: signs (of inputs too, where the paper has 0 and 1); the kernel's are
  scaled by its mean magnitude. Gradients are not quantized. Wants: ReLU
  with more than one bit of activations, which it clips to [0, 1]. Reference:
  arXiv 1606.06160.

  Args:
    bits: of kernels.
    activation_bits: of inputs; None: the same.
  """
  inputs = bits if activation_bits is None else activation_bits
  return _base.pair(
    quantizers.sign() if inputs == 1 else quantizers.dorefa_activation(inputs),
    quantizers.dorefa_weight(bits),
  )


@_base.REGISTRY.register
def bireal() -> _base.Pair:
  """Bi-Real Net: signs with a triangle as gradient, scaled kernels.

  Wants: a shortcut around every convolution. Reference: arXiv 1808.00278.
  """
  return _base.pair(quantizers.bireal(), quantizers.xnor())


@_base.REGISTRY.register
def bnnplus(beta: schedules.Hyper | None = None) -> _base.Pair:
  """BNN+: signs of both with the smooth gradient of SwishSign.

  Wants: its regulariser, which draws weights to +-alpha. Reference: arXiv
  1812.11800.

  Args:
    beta: the sharpness of the gradient; a number or a schedule.
  """
  member = _base.given(quantizers.swish_sign, beta=beta)
  return _base.pair(member, member)


@_base.REGISTRY.register
def poke(bound: schedules.Hyper = 3.0) -> _base.Pair:
  """PokeBNN: signs with a bound for inputs, the largest weight for kernels.

  Wants: DPReLU and shortcuts around every convolution (`models.pokebnn`), and
  kernels that become binary late. Reference: arXiv 2112.00133.

  Args:
    bound: window and magnitude of the inputs; a number or a schedule.
  """
  return _base.pair(
    quantizers.poke_activation(bound), quantizers.poke_weight(1)
  )


@_base.REGISTRY.register
def bop() -> _base.Pair:
  """Bop: signs on kernels that are +-1 themselves, flipped by the optimizer.

  Wants: the optimizer "bop" for the kernels, which start at +-1. Reference:
  arXiv 1906.02107.
  """
  return _base.pair(quantizers.sign(), quantizers.noop())
