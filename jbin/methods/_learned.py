"""Learned or measured thresholds, scales and levels."""

from __future__ import annotations

from jbin import quantizers, schedules
from jbin.methods import _base


@_base.REGISTRY.register
def xnorpp() -> _base.Pair:
  """XNOR-Net++: signs with a learned scale for each filter.

  The paper's factors of rows and columns are `nn.SpatialScale`, a rule's
  `output_scale`. Reference: arXiv 1909.13863.
  """
  return _base.pair(quantizers.sign(), quantizers.xnorpp())


@_base.REGISTRY.register
def bonn() -> _base.Pair:
  """BONN: signs with a learned scale for each filter, as XNOR-Net++ has it.

  Wants: its Bayesian kernel loss, the regularizer "bonn". Reference: arXiv
  1908.06314.
  """
  return _base.pair(quantizers.sign(), quantizers.xnorpp())


@_base.REGISTRY.register
def react() -> _base.Pair:
  """ReActNet: signs about learned thresholds, scaled kernels.

  Wants: RPReLU, a shortcut around every convolution, a float teacher.
  Reference: arXiv 2003.03488.
  """
  return _base.pair(quantizers.rsign(), quantizers.xnor())


@_base.REGISTRY.register
def adabin(t: schedules.Hyper | None = None) -> _base.Pair:
  """AdaBin: two levels anywhere, measured for filters, learned for inputs.

  Wants: Maxout, a shortcut around every convolution. Reference: arXiv
  2208.08084.

  Args:
    t: the sharpness of the kernel's gradient; a number or a schedule.
  """
  return _base.pair(
    quantizers.adabin_activation(), _base.given(quantizers.adabin_weight, t=t)
  )


@_base.REGISTRY.register
def lab() -> _base.Pair:
  """LAB: inputs binarized by a small learned convolution, scaled kernels.

  It takes the place of any paper's sign of activations. Reference: arXiv
  2210.13858.
  """
  return _base.pair(quantizers.lab_activation(), quantizers.xnor())


@_base.REGISTRY.register
def bit(bits: int = 1, signed: bool = True) -> _base.Pair:
  """BiT: inputs with a learned shift and scale, centred binary kernels.

  Wants: a float teacher; made for transformers. Reference: arXiv 2205.13016.

  Args:
    bits: of inputs.
    signed: False for inputs that are never negative.
  """
  return _base.pair(
    quantizers.bit_activation(bits, signed, shift=True),
    quantizers.bit_weight(),
  )


@_base.REGISTRY.register
def bivit() -> _base.Pair:
  """BiViT: signs, and centred kernels with a learned scale for each output.

  Wants: softmax-aware binary attention, a float teacher; made for vision
  transformers. Reference: arXiv 2211.07091.
  """
  return _base.pair(quantizers.sign(edge="open"), quantizers.bivit_weight())


@_base.REGISTRY.register
def bibert() -> _base.Pair:
  """BiBERT: signs, and centred kernels scaled by their mean magnitude.

  Wants: attention by a threshold, direction-matching distillation; made for
  transformers. Reference: arXiv 2203.06390.
  """
  return _base.pair(quantizers.sign(), quantizers.bibert_weight())


@_base.REGISTRY.register
def dsq(bits: int = 1) -> _base.Pair:
  """DSQ: learned bounds, and a soft staircase as gradient.

  Wants: bounds of inputs set from a batch (`nn.calibrate`). Reference: arXiv
  1908.05033.

  Args:
    bits: of both.
  """
  return _base.pair(quantizers.dsq(bits), quantizers.dsq(bits))


@_base.REGISTRY.register
def abcnet(bases: int = 3, activation_bases: int | None = None) -> _base.Pair:
  """ABC-Net: sums of several binary bases on both sides.

  Reference: arXiv 1711.11294.

  Args:
    bases: of kernels.
    activation_bases: of inputs; None: the same.
  """
  inputs = bases if activation_bases is None else activation_bases
  return _base.pair(
    quantizers.abcnet_activation(inputs), quantizers.abcnet_weight(bases)
  )


@_base.REGISTRY.register
def lqnet(bits: int = 1, activation_bits: int = 2) -> _base.Pair:
  """LQ-Net: levels that are sums of a basis, fitted to the tensor.

  Wants: ReLU. Reference: arXiv 1807.10029.

  Args:
    bits: of kernels.
    activation_bits: of inputs.
  """
  return _base.pair(
    quantizers.lqnet_activation(activation_bits), quantizers.lqnet_weight(bits)
  )


@_base.REGISTRY.register
def lsq(bits: int = 4, signed: bool = True) -> _base.Pair:
  """LSQ: uniform levels with a learned step on both sides.

  Wants: steps of inputs set from a batch (`nn.calibrate`). Reference: arXiv
  1902.08153.

  Args:
    bits: of both.
    signed: False for inputs that are never negative (ReLU).
  """
  return _base.pair(quantizers.lsq(bits, signed), quantizers.lsq(bits))


@_base.REGISTRY.register
def pact(bits: int = 4) -> _base.Pair:
  """PACT: inputs clipped at a learned bound, DoReFa's kernels.

  Wants: ReLU in front, decay of the bounds (`optimizer.decay="learned"`).
  Reference: arXiv 1805.06085.

  Args:
    bits: of both.
  """
  return _base.pair(quantizers.pact(bits), quantizers.dorefa_weight(bits))
