"""Weights of few bits, on activations of more."""

from __future__ import annotations

from typing import Literal

from jbin import quantizers
from jbin.methods import _base


@_base.REGISTRY.register
def binaryconnect(
  mode: Literal["deterministic", "stochastic"] = "deterministic",
) -> _base.Pair:
  """BinaryConnect: signs of kernels, at random or not; inputs stay float.

  Wants: ReLU, latent weights clipped to [-1, 1]. Reference: arXiv 1511.00363.

  Args:
    mode: whether signs are drawn while training.
  """
  return _base.pair(None, quantizers.binaryconnect(mode=mode))


@_base.REGISTRY.register
def proxquant(bits: int = 1) -> _base.Pair:
  """ProxQuant: kernels as they are, which the optimizer pulls to their levels.

  Inputs stay float. Wants: ReLU, the optimizer "proxquant", a trained float
  net to start from. Reference: arXiv 1810.00861.

  Args:
    bits: 1, or 2 for three levels (the optimizer's kind="ternary").
  """
  return _base.pair(None, quantizers.noop(bits))


@_base.REGISTRY.register
def twn() -> _base.Pair:
  """TWN: ternary kernels, threshold and scale measured; inputs stay float.

  Wants: ReLU. Reference: arXiv 1605.04711.
  """
  return _base.pair(None, quantizers.twn())


@_base.REGISTRY.register
def ttq() -> _base.Pair:
  """TTQ: ternary kernels with two learned scales; inputs stay float.

  Wants: ReLU. Reference: arXiv 1612.01064.
  """
  return _base.pair(None, quantizers.ttq())


@_base.REGISTRY.register
def ste_tern() -> _base.Pair:
  """Larq's ternary signs of both, with a fixed threshold.

  Reference: Geiger et al., 2020, Larq (JOSS).
  """
  return _base.pair(quantizers.ste_tern(), quantizers.ste_tern())


@_base.REGISTRY.register
def fbi() -> _base.Pair:
  """FBI-LLM and Bi-Mamba: kernels with learned scales and offsets.

  Inputs stay float; made for language models. References: arXiv 2407.07093,
  2411.11843.
  """
  return _base.pair(None, quantizers.fbi_weight())


@_base.REGISTRY.register
def bitnet() -> _base.Pair:
  """BitNet: centred signs of kernels, inputs of 8 bits by their largest.

  Wants: a norm before each layer; made for language models. Reference: arXiv
  2310.11453.
  """
  return _base.pair(
    quantizers.bitnet_activation(full=True), quantizers.bitnet_weight()
  )


@_base.REGISTRY.register
def bitnet158() -> _base.Pair:
  """BitNet b1.58: ternary kernels, inputs of 8 bits for each token.

  Wants: a norm before each layer; made for language models. Reference: arXiv
  2402.17764.
  """
  return _base.pair(
    quantizers.bitnet_activation(), quantizers.bitnet158_weight()
  )


@_base.REGISTRY.register
def integer(
  bits: int = 8, activation_bits: int | None = None, asymmetric: bool = False
) -> _base.Pair:
  """Integers by the largest magnitude: each filter's, and each example's.

  Reference: arXiv 1712.05877.

  Args:
    bits: of kernels.
    activation_bits: of inputs; None: the same. 0: inputs stay float.
    asymmetric: inputs lie between their least and their greatest entry.
  """
  inputs = bits if activation_bits is None else activation_bits
  member = quantizers.minmax if asymmetric else quantizers.absmax
  return _base.pair(
    member(inputs, axes=(0,)) if inputs else None, quantizers.absmax(bits)
  )
