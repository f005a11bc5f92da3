"""Named sets of rules, as configs ask for them."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from jbin import errors, methods, quantizers, registry
from jbin.convert import _bits
from jbin.convert._rule import Rule

REGISTRY = registry.Registry("rule set")


@REGISTRY.register
def none() -> list[Rule]:
  """No rules: the model as it is written."""
  return []


@REGISTRY.register
def bits(bits: str, bounds_at: float = 0.06) -> list[Rule]:
  """A pair of bit-widths: "w8a8", "w4a4_firstlast8", "w1a1_firstlastfloat".

  One bit: XNOR-Net weights on BinaryNet signs. More: weights scaled by the
  largest of each output channel, activations by running bounds.

  Args:
    bits: wW or wWaA, then perhaps _firstlast8 or _firstlastfloat; "float32"
      and "bfloat16" leave all layers float.
    bounds_at: progress at which the bounds of activations of 2 to 8 bits are
      set; they are floats before.

  Raises:
    errors.UserError: if the text cannot be read.
  """
  return [Rule(**arguments) for arguments in _bits.bits(bits, bounds_at)]


@REGISTRY.register
def method(
  method: str,
  ends: Literal["float", "same"] = "float",
  start: float = 0.0,
  weights_start: float = 0.0,
  keep: Sequence[str] = (),
  output_scale: str | None = None,
  **arguments: Any,
) -> list[Rule]:
  """What a paper binarizes with, in every layer but the first and the last.

  Args:
    method: a name of `jbin list methods`.
    ends: "float" leaves the first and the last layer alone, as papers do;
      "same" does not. Tables that are looked up stay float in either case.
    start: progress from which layers are quantized; floats before.
    weights_start: the same for the kernels alone, where they follow the
      activations (two-step training).
    keep: paths (regular expressions) of further layers to leave float, such
      as ".*shortcuts.*".
    output_scale: of convolutions, as a `jbin.Rule` has it by name: "XnorMap",
      "SpatialScale".
    **arguments: of the method.

  Raises:
    errors.UserError: if there is no such method, or it has no such argument.
  """
  make = methods.REGISTRY.get(method)
  known = inspect.signature(make).parameters
  for name in arguments:
    if name not in known:
      raise errors.UnknownName(f"argument of method '{method}'", name, known)
  pair: dict[str, Any] = dict(make(**arguments))
  if 0 < weights_start < start:
    raise errors.UserError(
      f"method '{method}': weights_start={weights_start} is before"
      f" start={start}; kernels begin with their inputs or after them"
    )
  if weights_start > start and pair.get("kernel_quantizer") is not None:
    pair["kernel_quantizer"] = quantizers.delayed(
      pair["kernel_quantizer"], weights_start
    )
  if ends not in ("float", "same"):
    raise errors.UnknownName("ends", ends, ("float", "same"))
  if isinstance(keep, str):
    raise errors.UserError(f"keep is a list of paths, got {keep!r}")
  rules = [Rule(path, note="kept float") for path in keep]
  # A table that is looked up is the first layer of a language model.
  rules.append(Rule(type="Embed", optional=True, note="a table"))
  if ends == "float":
    rules += [
      Rule(position=position, note=f"the {position} layer")
      for position in ("first", "last")
    ]
  return [*rules, Rule(start=start, output_scale=output_scale, **pair)]


@REGISTRY.register
def custom(rules: Sequence[Mapping[str, Any]]) -> list[Rule]:
  """Rules written out in the config, each a group of `jbin.Rule`'s fields.

  Args:
    rules: such as {"path": "head", "kernel_quantizer": {"name": "absmax"}}.

  Raises:
    errors.UserError: if a field is unknown.
  """
  known = [field.name for field in dataclasses.fields(Rule)]
  for fields in rules:
    if not isinstance(fields, Mapping):
      raise errors.UserError(f"a rule is a group of fields, got {fields!r}")
    for name in fields:
      if name not in known:
        raise errors.UnknownName("field of a rule", name, known)
  return [Rule(**fields) for fields in rules]
