"""The registry of methods, and how a pair is made."""

from __future__ import annotations

from collections.abc import Callable

from jbin import quantizers, registry, schedules

REGISTRY = registry.Registry("method")

Pair = dict[str, quantizers.Quantizer | None]


def pair(
  activation: quantizers.Quantizer | None, weight: quantizers.Quantizer | None
) -> Pair:
  """What quantizes inputs and kernels, under the names that layers have."""
  return {"input_quantizer": activation, "kernel_quantizer": weight}


def given(
  member: Callable[..., quantizers.Quantizer], **hypers: schedules.Hyper | None
) -> quantizers.Quantizer:
  """The quantizer; a hyper-parameter that is None keeps its default."""
  known = {key: value for key, value in hypers.items() if value is not None}
  return member(**known)
