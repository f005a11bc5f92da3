"""A plan as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jbin import quantizers, tables
from jbin.convert import _rule

if TYPE_CHECKING:
  from jbin.convert._plan import Entry

_HEAD = ("path", "op", "shape", "bits", "rule", "")


def table(entries: Sequence[Entry], rules: Sequence[_rule.Rule]) -> str:
  """One line for each entry, the rules below, and how many changed."""
  rows = [
    (
      entry.path or "(model)",
      entry.op,
      "x".join(map(str, entry.shape)) or "-",
      entry.bits or "-",
      "-" if entry.rule is None else str(entry.rule),
      _remark(entry, rules),
    )
    for entry in entries
  ]
  widths = [max(map(len, column)) for column in zip(_HEAD, *rows, strict=True)]
  lines = tables.align([_HEAD, *rows], "<" * len(_HEAD))
  lines.insert(1, "  ".join("-" * width for width in widths[:-1]))
  changed = sum(bool(entry.slots) for entry in entries)
  layers = sum(bool(entry.bits) for entry in entries)
  lines += [
    "",
    f"{changed} of {layers} layers change. The first rule that fits:",
  ]
  lines += [f"  {index}  {rule}" for index, rule in enumerate(rules)]
  return "\n".join(lines)


def _short(spec: quantizers.Quantizer) -> str:
  if isinstance(spec, quantizers.delayed):
    return f"{spec.quantizer} from {spec.start:g}"
  return repr(spec)


def _remark(entry: Entry, rules: Sequence[_rule.Rule]) -> str:
  parts = []
  if entry.slots:
    made = [_short(spec) for spec in entry.slots.values()]
    if entry.output_scale is not None:
      made.append(_rule.name_of(entry.output_scale))
    parts.append(", ".join(made))
    if "weights_quantizer" in entry.slots and entry.rule is not None:
      way = rules[entry.rule].normalize
      parts += [] if way == "softmax" else [f"normalize: {way}"]
  if entry.reason:
    parts.append(entry.reason if entry.slots else f"left: {entry.reason}")
  if entry.rule is not None and rules[entry.rule].note:
    parts.append(rules[entry.rule].note)
  return "; ".join(parts)
