"""Signs whose gradient or weights follow a schedule."""

from __future__ import annotations

from jbin import quantizers, schedules
from jbin.methods import _base


@_base.REGISTRY.register
def reste(o: schedules.Hyper | None = None) -> _base.Pair:
  """ReSTE: a power's gradient, from straight-through to near the sign's.

  Wants: ReLU before the norm, shortcuts without parameters. Reference: arXiv
  2308.06689.

  Args:
    o: the power; a number or a schedule, by default `quarter_cosine(1, 3)`.
  """
  return _base.pair(
    _base.given(quantizers.reste_activation, o=o),
    _base.given(quantizers.reste_weight, o=o),
  )


@_base.REGISTRY.register
def irnet(t: schedules.Hyper | None = None) -> _base.Pair:
  """IR-Net: balanced kernels with scales 2^n, gradients that narrow.

  Wants: hard tanh, a shortcut around every convolution. Reference: arXiv
  1909.10788.

  Args:
    t: the sharpness; a number or a schedule, by default from 0.1 to 10.
  """
  return _base.pair(
    _base.given(quantizers.irnet_activation, t=t),
    _base.given(quantizers.irnet_weight, t=t),
  )


@_base.REGISTRY.register
def fda(
  n: schedules.Hyper | None = None, alpha: schedules.Hyper | None = None
) -> _base.Pair:
  """FDA-BNN: gradients from a Fourier series, noise nets that fade away.

  Wants: hard tanh. Reference: arXiv 2103.00841.

  Args:
    n: the order of the series; a number or a schedule.
    alpha: the weight of the noise; a number or a schedule, 0 at the end.
  """
  return _base.pair(
    _base.given(quantizers.fda_activation, n=n, alpha=alpha),
    _base.given(quantizers.fda_weight, n=n, alpha=alpha),
  )


@_base.REGISTRY.register
def recu(tau: schedules.Hyper | None = None) -> _base.Pair:
  """ReCU: standardized weights with the outermost clamped, a learned scale.

  Wants: hard tanh, shortcuts without parameters. Reference: arXiv 2103.12369.

  Args:
    tau: the quantile; a number or a schedule, by default from 0.85 to 0.99.
  """
  return _base.pair(
    quantizers.recu_activation(), _base.given(quantizers.recu_weight, tau=tau)
  )


@_base.REGISTRY.register
def biper(
  omega: schedules.Hyper = 20.0, binary_from: float = 2 / 3
) -> _base.Pair:
  """BiPer: weights on a sine, then on the square wave of the same period.

  Wants: hard tanh, shortcuts without parameters, its regulariser. Reference:
  arXiv 2404.01278.

  Args:
    omega: the frequency; a number or a schedule.
    binary_from: the progress at which weights become binary.
  """
  return _base.pair(
    quantizers.recu_activation(),
    quantizers.biper_weight(omega, binary_from),
  )


@_base.REGISTRY.register
def rbnn(epochs: int = 150, t: schedules.Hyper | None = None) -> _base.Pair:
  """RBNN: rotated weights, set anew each epoch; gradients that narrow.

  Wants: hard tanh, shortcuts without parameters. Reference: arXiv 2009.13055.

  Args:
    epochs: how often the rotation is set anew during training.
    t: the sharpness; a number or a schedule, by default from 0.01 to 10.
  """
  return _base.pair(
    _base.given(quantizers.rbnn_activation, t=t),
    _base.given(quantizers.rbnn_weight, epochs=epochs, t=t),
  )


@_base.REGISTRY.register
def siman() -> _base.Pair:
  """SiMaN: the upper half of each filter's magnitudes is +1, the lower -1.

  Wants: hard tanh, shortcuts without parameters, latent weights cut to
  percentiles. Reference: arXiv 2102.07981.
  """
  return _base.pair(quantizers.siman_activation(), quantizers.siman_weight())
