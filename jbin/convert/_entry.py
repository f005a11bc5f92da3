"""One line of a plan: which rule takes a layer, or why none does."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
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
    reason: why it stays as it is, or, of one that changes, what to know of it;
      "" if there is nothing to say.
    output_scale: what makes that of the layer; None: nothing does.
  """

  path: str
  op: str
  shape: tuple[int, ...]
  bits: str
  rule: int | None
  slots: Slots
  reason: str
  output_scale: Callable[[], Any] | None = None


def sorted_parts(parts: Mapping[str, Any]) -> list[tuple[str, Any]]:
  """By path, numbers in it as numbers."""

  def order(item: tuple[str, Any]) -> list[tuple[int, str]]:
    return [
      (int(key), "") if key.isdecimal() else (-1, key)
      for key in item[0].split("/")
    ]

  return sorted(parts.items(), key=order)


def _misfit(
  rule: _rule.Rule,
  path: str,
  part: Any,
  size: int | None,
  places: Sequence[str],
) -> str | None:
  """The first condition of a rule that does not hold; None: it fits.

  Args:
    rule: the rule.
    path: of the layer or attention.
    part: the layer or attention.
    size: elements of its kernel; None: it has none.
    places: its places in the order of execution.
  """
  if re.fullmatch(rule.path, path) is None:
    return f"path={rule.path!r}"
  if not _rule.has_type(part, rule.type):
    return f"type={_rule.type_name(rule.type)}"
  if rule.position not in (None, *places):
    return f"position={rule.position!r}" + _without(size, "place")
  if rule.min_size > (size or 0):
    return f"min_size={rule.min_size}" + _without(size, "kernel")
  if rule.max_size is not None and (size or 0) > rule.max_size:
    return f"max_size={rule.max_size}"
  return None


def _without(size: int | None, what: str) -> str:
  return f" (an attention has no {what})" if size is None else ""


def _places(path: str, seen: _trace.Trace | None) -> tuple[str, ...]:
  """Both, for a layer that runs first and last."""
  if seen is None or path not in seen.order:
    return ()
  ends = (("first", seen.order[0]), ("last", seen.last))
  return tuple(name for name, end in ends if path == end) or ("inner",)


def refuse_quantized(path: str) -> None:
  """Raises for a layer whose quantizers a rule would replace."""
  raise errors.UserError(
    f"'{path}' is quantized already, and what its quantizers have learned"
    " would be lost; take the float model again, jbin.dequantize(model), or"
    f" keep it as it is by a rule that comes first, jbin.Rule({path!r})"
  )


def layer_entry(
  path: str,
  layer: Any,
  rules: Sequence[_rule.Rule],
  seen: _trace.Trace | None,
) -> Entry:
  """What happens to a layer with a kernel.

  Raises:
    errors.UserError: if it is quantized already and a rule would quantize it,
      or the rule's quantizers do not fit it.
  """
  kind = _layers.kind_of(layer)
  assert kind is not None
  kernel = getattr(layer, kind.kernel).get_value()
  lead = _layers.stack(layer, kind)
  # Of a stack of layers: one layer's.
  size = kernel.size if lead is None else math.prod(kind.shape(layer))
  places = _places(path, seen)
  taken = None
  for index, rule in enumerate(rules):
    mine = rule.keeps or rule.slots(_rule.LAYER_SLOTS)
    if mine and _misfit(rule, path, layer, size, places) is None:
      taken = index
      break
  held = _layers.held(layer)
  slots: Slots = {}
  scale = None
  reason = "no rule takes it"
  if taken is not None:
    rule = rules[taken]
    slots = rule.slots(list(kind.slots))
    reason = _obstacle(layer, kind, rule, slots)
    if slots and held and not rule.keeps:
      refuse_quantized(path)
    if reason:
      slots = {}
    else:
      scale = _output_scale(path, taken, layer, rule, seen)
      low = _abstract(path, taken, layer, slots)
      found = _lost(low) if lead else []
      if seen is not None and not places and kind.flax is not nnx.Embed:
        found.insert(0, "the example did not run it")
      if rule.output_scale is not None and scale is None:
        taking = " or ".join(_rule.scaled_layers(rule.output_scale))
        found.append(f"it is no {taking}: the output_scale is left out")
      reason = "; ".join(found)
  if held:
    reason = "already quantized"
  wide = layer.dtype or kernel.dtype
  pair = held or slots
  bits = _bits(pair, _rule.LAYER_SLOTS, _width(wide))
  if kind.flax is nnx.Embed:
    bits = bits.split("x")[1]
  shape = tuple(kernel.shape)
  name = type(layer).__name__
  return Entry(path, name, shape, bits, taken, slots, reason, scale)


def _obstacle(
  layer: Any, kind: _layers.Kind, rule: _rule.Rule, slots: Slots
) -> str:
  """Why a rule that takes a layer leaves it as it is; "" if it does not."""
  if rule.keeps:
    return "a rule keeps it float"
  if not slots:
    return f"{type(layer).__name__} has no input to quantize"
  if own := _layers.hook(layer, kind):
    return f"its {own} is not Flax's own: the layer computes something else"
  if _layers.stack(layer, kind) is None:
    return f"its {kind.kernel} is not {kind.shape(layer)} with axes before"
  return ""


def _lost(low: Any) -> list[str]:
  """What a stack of layers loses, if its model scans it as plain JAX does."""
  held = [
    part for _, part in nnx.iter_modules(low) if isinstance(part, nn.Quantizer)
  ]
  what = ["measures"] if any(len(part.statistics) for part in held) else []
  what += ["draws"] if any(part.rngs is not None for part in held) else []
  if not what:
    return []
  kept = f"a stack: what it {' and '.join(what)} stays under nnx.scan"
  return [f"{kept}, and is lost under jax.lax.scan"]


def _output_scale(
  path: str,
  index: int,
  layer: Any,
  rule: _rule.Rule,
  seen: _trace.Trace | None,
) -> Callable[[], Any] | None:
  """What makes the rule's module for the output; of the output's size."""
  make = rule.output_scale
  kind = _layers.kind_of(layer)
  assert kind is not None
  if make is None or kind.flax.__name__ not in _rule.scaled_layers(make):
    return None
  assert callable(make)
  wanted = _rule.sizes_of(make)
  if not wanted:
    return make
  size = seen.sizes.get(path) if seen is not None else None
  if size is None or len(size) != len(wanted):
    raise errors.UserError(
      f"layer '{path}', rule {index}: its output_scale has the size of the"
      f" layer's output ({', '.join(wanted)}); give an example that runs this"
      " layer, on images"
    )
  return functools.partial(make, **dict(zip(wanted, size, strict=True)))


def attention_entry(
  path: str,
  part: nnx.MultiHeadAttention,
  rules: Sequence[_rule.Rule],
  seen: _trace.Trace | None,
) -> Entry:
  """What happens to the two products of an attention.

  Raises:
    errors.UserError: if it is quantized already and a rule would quantize it.
  """
  taken = None
  misfits = []
  for index, rule in enumerate(rules):
    # A rule for layers says nothing of the products of activations.
    wanted = bool(rule.slots(_rule.ATTENTION_SLOTS))
    if not (rule.keeps or wanted):
      continue
    why = _misfit(rule, path, part, None, ())
    if why is None:
      taken = index
      break
    if wanted:
      misfits.append(f"rule {index} does not fit: {why}")
  slots: Slots = {}
  held = _layers.held(part)
  reason = "; ".join(misfits) or "no rule quantizes products of activations"
  if taken is not None:
    reason = "a rule keeps it float" if rules[taken].keeps else ""
    if not reason and held:
      refuse_quantized(path)
    if not reason and part.attention_fn is not nnx.dot_product_attention:
      reason = "its attention_fn is not Flax's own"
    if not reason:
      slots = rules[taken].slots(_rule.ATTENTION_SLOTS)
      idle = seen is not None and path not in seen.attention
      found = ["the example did not run it"] if idle else []
      if _layers.attention_stack(part):
        make = functools.partial(_layers.attention_fn, slots=slots)
        low = nnx.eval_shape(lambda part: make(part, rngs=nnx.Rngs(0)), part)
        found += _lost(low)
      reason = "; ".join(found)
  if held:
    reason = "already quantized"
  wide = _width(part.dtype or part.param_dtype)
  pairs = [
    _bits(held or slots, pair, wide)
    for pair in (
      ("query_quantizer", "key_quantizer"),
      ("weights_quantizer", "value_quantizer"),
    )
  ]
  shape = (part.num_heads, part.head_dim)
  name = type(part).__name__
  return Entry(path, name, shape, ", ".join(pairs), taken, slots, reason)


def _width(dtype: Any) -> int:
  return jnp.dtype(dtype).itemsize * 8


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


def _abstract(path: str, index: int, layer: Any, slots: Slots) -> Any:
  """The layer with a rule's quantizers, without arrays: do they fit.

  Raises:
    errors.UserError: if they do not.
  """
  kind = _layers.kind_of(layer)
  assert kind is not None

  def attempt(layer: Any) -> Any:
    new = nnx.clone(layer)
    _layers.adopt(new, slots, nnx.Rngs(0))
    name = kind.slots["kernel_quantizer"]
    held = getattr(new, name)
    if held is None or _layers.stack(layer, kind):
      return new, ()
    kernel = getattr(layer, kind.kernel).get_value()
    return new, held(kernel).value

  try:
    return nnx.eval_shape(attempt, layer)[0]
  except (errors.UserError, ValueError, TypeError) as error:
    given = ", ".join(str(spec) for spec in slots.values())
    raise errors.UserError(
      f"layer '{path}', rule {index}: {given} does not fit: {error}"
    ) from error
