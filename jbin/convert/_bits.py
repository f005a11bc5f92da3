"""What a text such as "w4a4_firstlast8" says of a model's layers."""

from __future__ import annotations

import re
from typing import Any

from jbin import errors, quantizers

_TEXT = re.compile(
  r"w(?P<w>\d)(a(?P<a>\d)|_weightonly)?(_firstlast(?P<ends>8|float))?"
)


def bits(bits: str, bounds_at: float = 0.06) -> list[dict[str, Any]]:
  """The arguments of the rules that a pair of bit-widths stands for.

  "w8a8" has weights and activations of 8 bits, in every layer; "w8" and
  "w8_weightonly" leave activations float. "_firstlast8" gives the first and
  the last layer 8 bits, "_firstlastfloat" leaves them float. "float32",
  "bfloat16", "bf16" and "float" leave all layers float.

  One bit: XNOR-Net weights (mean magnitude of each output channel) on
  BinaryNet signs. More: weights scaled by the largest of each output channel,
  activations by running bounds of the whole tensor.

  Args:
    bits: the text.
    bounds_at: progress at which the bounds of activations of 2 to 8 bits are
      set; they are floats before.

  Returns:
    For each rule, in order: `position` ("first", "last", or None for all that
    are left), `input_quantizer` and `kernel_quantizer` (None: float).

  Raises:
    errors.UserError: if the text cannot be read.
  """
  if bits in ("float32", "bfloat16", "bf16", "float"):
    return [_rule(None, None, None, bounds_at)]
  found = _TEXT.fullmatch(bits)
  widths = found and [int(found[group]) for group in ("w", "a") if found[group]]
  if not found or not all(1 <= width <= 8 for width in widths or ()):
    raise errors.UserError(
      f"bits {bits!r}: write float32, bfloat16, wW or wWaA, with W and A"
      " from 1 to 8, and perhaps _firstlast8 or _firstlastfloat, as in w8a8"
      " or w4a4_firstlast8"
    )
  activation = int(found["a"]) if found["a"] else None
  rules = []
  if found["ends"]:
    ends = (8, 8 if activation else None)
    ends = ends if found["ends"] == "8" else (None, None)
    rules = [_rule(at, *ends, bounds_at) for at in ("first", "last")]
  return [*rules, _rule(None, int(found["w"]), activation, bounds_at)]


def _rule(
  position: str | None,
  weight: int | None,
  activation: int | None,
  bounds_at: float,
) -> dict[str, Any]:
  """One rule's arguments, for widths of which None is float."""
  left = right = None
  if weight is not None:
    right = quantizers.xnor() if weight == 1 else quantizers.absmax(weight)
  if activation == 1:
    left = quantizers.sign()
  elif activation is not None:
    left = quantizers.ema_bounds(activation, start=bounds_at, per_channel=False)
  return {
    "position": position,
    "input_quantizer": left,
    "kernel_quantizer": right,
  }
