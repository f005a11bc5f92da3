"""One line of a plan: which rule takes a layer, or why none does."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from flax import nnx

from jbin import errors, nn, quantizers
from jbin.convert import _layers, _rule, _trace

Slots = Mapping[str, quantizers.Quantizer]


@dataclasses.dataclass(frozen=True)
class Entry:
  """A line of the plan: one layer, attention or product.

  Attributes:
    path: where it is in the model.
    op: its class, or "product".
    shape: of its weight.
    bits: of its operands after the plan, as "1x1".
    rule: index of the rule that takes it; None: no rule does.
    slots: its quantizers.
    reason: why it stays as it is; "" if it does not.
  """

  path: str
  op: str
  shape: tuple[int, ...]
  bits: str
  rule: int | None
  slots: Slots
  reason: str


def sorted_parts(parts: Mapping[str, Any]) -> list[tuple[str, Any]]:
  """By path, numbers in it as numbers."""

  def order(item: tuple[str, Any]) -> list[tuple[int, str]]:
    return [
      (int(key), "") if key.isdecimal() else (-1, key)
      for key in item[0].split("/")
    ]

  return sorted(parts.items(), key=order)


def _fits(
  rule: _rule.Rule, path: str, part: Any, size: int, place: str | None
) -> bool:
  return (
    re.fullmatch(rule.path, path) is not None
    and _rule.has_type(part, rule.type)
    and rule.position in (None, place)
    and rule.min_size <= size
    and (rule.max_size is None or size <= rule.max_size)
  )


def _place(path: str, seen: _trace.Trace | None) -> str | None:
  if seen is None or path not in seen.order:
    return None
  if path == seen.order[0]:
    return "first"
  return "last" if path == seen.last else "inner"


def layer_entry(
  path: str,
  layer: Any,
  rules: Sequence[_rule.Rule],
  seen: _trace.Trace | None,
) -> Entry:
  """What happens to a layer with a kernel."""
  kind = _layers.kind_of(layer)
  assert kind is not None
  kernel = getattr(layer, kind.kernel).get_value()
  place = _place(path, seen)
  taken = None
  for index, rule in enumerate(rules):
    if (rule.keeps or rule.slots(_rule.LAYER_SLOTS)) and _fits(
      rule, path, layer, kernel.size, place
    ):
      taken = index
      break
  slots: Slots = {}
  reason = "no rule takes it"
  if taken is not None:
    rule = rules[taken]
    slots = rule.slots(list(kind.slots))
    reason = ""
    if rule.keeps:
      reason = "a rule keeps it float"
    elif not slots:
      reason = f"{type(layer).__name__} has no input to quantize"
    elif _layers.has_quantizers(layer):
      reason = "it has quantizers already"
    elif own := _layers.hook(layer, kind):
      reason = f"its {own} is not Flax's own: the layer computes something else"
    elif _layers.stack(layer, kind) is None:
      reason = f"its {kind.kernel} is not {kind.shape(layer)} with axes before"
    if reason:
      slots = {}
    else:
      _check_fits(path, taken, layer, slots)
      if seen is not None and place is None and kind.flax is not nnx.Embed:
        reason = "the example did not run it"
  float_bits = kernel.dtype.itemsize * 8
  bits = _bits(slots, _rule.LAYER_SLOTS, float_bits)
  if kind.flax is nnx.Embed:
    bits = bits.split("x")[1]
  if _layers.has_quantizers(layer):
    held = {
      name: getattr(layer, own).spec
      for name, own in kind.slots.items()
      if getattr(layer, own) is not None
    }
    bits = _bits(held, _rule.LAYER_SLOTS, float_bits)
  shape = tuple(kernel.shape)
  return Entry(path, type(layer).__name__, shape, bits, taken, slots, reason)


def attention_entry(
  path: str,
  part: nnx.MultiHeadAttention,
  rules: Sequence[_rule.Rule],
  seen: _trace.Trace | None,
) -> Entry:
  """What happens to the two products of an attention."""
  taken = None
  for index, rule in enumerate(rules):
    # A rule for layers says nothing of the products of activations.
    mine = rule.keeps or rule.slots(_rule.ATTENTION_SLOTS)
    if mine and _fits(rule, path, part, 0, None):
      taken = index
      break
  slots: Slots = {}
  reason = "no rule quantizes products of activations"
  if taken is not None:
    reason = "a rule keeps it float" if rules[taken].keeps else ""
    own = part.attention_fn is not nnx.dot_product_attention
    if not reason and isinstance(part.attention_fn, nn.DotProductAttention):
      reason = "it has quantizers already"
    elif not reason and own:
      reason = "its attention_fn is not Flax's own"
    if not reason:
      slots = rules[taken].slots(_rule.ATTENTION_SLOTS)
      if seen is not None and path not in seen.attention:
        reason = "the example did not run it"
  pairs = [
    _bits(slots, pair, 32)
    for pair in (
      ("query_quantizer", "key_quantizer"),
      ("weights_quantizer", "value_quantizer"),
    )
  ]
  shape = (part.num_heads, part.head_dim)
  name = type(part).__name__
  return Entry(path, name, shape, ", ".join(pairs), taken, slots, reason)


def _bits(slots: Slots, names: Sequence[str], float_bits: int) -> str:
  return "x".join(
    str(slots[name].bits if name in slots else float_bits) for name in names
  )


def product_entries(
  products: Sequence[_trace.Product], parts: Mapping[str, Any]
) -> list[Entry]:
  """The products that the model makes in its own code, and why they stay."""
  entries = []
  for product in products:
    op, reason = "product", "a product of activations in the model's own code"
    if product.params:
      owner = product.params[0].rpartition("/")[0]
      op = type(parts[owner]).__name__ if owner in parts else op
      reason = f"{', '.join(product.params)}, in the model's own code"
      base = _base_kind(parts.get(owner))
      if base is not None:
        reason = f"a subclass of {base} may compute something else"
    name = product.name or "product"
    entries.append(Entry(name, op, product.shape[-1], "", None, {}, reason))
  return entries


def other_modules(
  parts: Mapping[str, Any],
  known: Mapping[str, Any],
  products: Sequence[_trace.Product],
) -> list[Entry]:
  """Modules with parameters that are in no product, as far as is known."""
  multiplied = {name for product in products for name in product.params}
  entries = []
  for path, part in sorted_parts(parts):
    if path in known:
      continue
    own = {
      name: value
      for name, value in vars(part).items()
      if isinstance(value, nnx.Param)
      and (f"{path}/{name}" if path else name) not in multiplied
    }
    if not own:
      continue
    reason = f"no layer's kernel: {', '.join(own)}"
    base = _base_kind(part)
    if base is not None:
      reason = f"a subclass of {base} may compute something else"
    largest = max(own.values(), key=lambda value: value.size)
    shape = tuple(largest.shape)
    entries.append(
      Entry(path, type(part).__name__, shape, "", None, {}, reason)
    )
  return entries


def _base_kind(part: Any) -> str | None:
  """The known kind that a class extends; None if it extends none."""
  names = [c.__name__ for c in type(part).__mro__[1:] if _is_kind(c)]
  return names[0] if names else None


def _is_kind(cls: type[Any]) -> bool:
  return any(cls in (kind.flax, kind.ours) for kind in _layers.KINDS)


def _check_fits(path: str, index: int, layer: Any, slots: Slots) -> None:
  """Tries a rule's quantizers on a layer, abstractly."""
  kind = _layers.kind_of(layer)
  assert kind is not None

  def attempt(layer: Any) -> Any:
    new = _layers.adopt(layer, slots, nnx.Rngs(0))
    name = kind.slots["kernel_quantizer"]
    held = getattr(new, name)
    if held is None or _layers.stack(layer, kind):
      return ()
    kernel = getattr(layer, kind.kernel).get_value()
    return held(kernel).value

  try:
    nnx.eval_shape(attempt, layer)
  except (errors.UserError, ValueError, TypeError) as error:
    given = ", ".join(str(spec) for spec in slots.values())
    raise errors.UserError(
      f"layer '{path}', rule {index}: {given} does not fit: {error}"
    ) from error
