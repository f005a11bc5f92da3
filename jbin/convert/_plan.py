"""Which rule takes which layer, said before anything is changed."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from flax import nnx

from jbin import cost, errors, nn
from jbin.convert import _entry, _layers, _rule, _table, _trace
from jbin.convert._entry import Entry


@dataclasses.dataclass(frozen=True)
class Plan:
  """What rules do to a model; prints as a table, and does it by `apply`.

  Attributes:
    entries: what the model consists of, in the order of its paths.
    rules: the rules, as they were given.
  """

  entries: tuple[Entry, ...]
  rules: tuple[_rule.Rule, ...]

  def apply(
    self, model: nnx.Module, *, rngs: nnx.Rngs | None = None
  ) -> nnx.Module:
    """The model with what the plan says; `model` itself stays as it is.

    Args:
      model: the one that was planned, or one of the same structure.
      rngs: for quantizers that draw their parameters or in training.

    Raises:
      errors.UserError: if the model lacks a layer of the plan or has it
        quantized already, or a quantizer needs `rngs`.
    """
    wanted = {entry.path: entry for entry in self.entries if entry.slots}
    done: set[str] = set()
    new = nnx.clone(model)  # as a graph: what is shared stays so
    parts = [("/".join(map(str, at)), m) for at, m in nnx.iter_modules(new)]
    for path, part in parts:
      if path not in wanted:
        continue
      entry = wanted[path]
      rule = self.rules[entry.rule or 0]
      precision = rule.grad_precision
      if _layers.held(part):
        _entry.refuse_quantized(path)
      try:
        if _layers.is_layer(part):
          scale = entry.output_scale
          _layers.adopt(part, entry.slots, rngs, precision, scale)
        elif isinstance(part, nnx.MultiHeadAttention):
          made = _layers.attention_fn(
            part, entry.slots, rngs, precision, rule.normalize
          )
          part.attention_fn = nnx.data(made)
        else:
          continue
      except errors.UserError as error:
        raise errors.UserError(f"layer '{path}': {error}") from error
      done.add(path)
    if missing := sorted(set(wanted) - done):
      raise errors.UserError(
        f"the plan is of another model: this one has no layer '{missing[0]}'"
      )
    return new

  def __str__(self) -> str:
    """The table."""
    return _table.table(self.entries, self.rules)


def plan(
  model: nnx.Module,
  rules: _rule.Rule | Sequence[_rule.Rule],
  *example: Any,
  **named: Any,
) -> Plan:
  """What `rules` would do to a model: path, op, shape, rule, bits, reason.

  Nothing is computed or allocated; the model and the example may be abstract.
  With an example, the plan knows the order in which layers run (which rules
  with a `position` need), the layers that do not run, and the products that
  the model makes outside its layers, which no rule reaches.

  Args:
    model: an NNX module of any origin.
    rules: the first that fits a layer takes it.
    *example: what the model is called with, or shapes.
    **named: the same by name.

  Raises:
    errors.UserError: for a rule that takes nothing (the message names the
      nearest paths) or a layer that is quantized already, a `position` without
      an example, a quantizer that does not fit a layer, or a parameter that
      stands in two places of the model.
  """
  chosen = (rules,) if isinstance(rules, _rule.Rule) else tuple(rules)
  for rule in chosen:
    if not isinstance(rule, _rule.Rule):
      raise errors.UserError(f"expected a jbin.Rule, got {rule!r}")
  _refuse_shared(model)
  parts = {
    "/".join(map(str, path)): part for path, part in nnx.iter_modules(model)
  }
  layers = {p: m for p, m in _entry.sorted_parts(parts) if _layers.is_layer(m)}
  attentions = {
    p: m
    for p, m in _entry.sorted_parts(parts)
    if type(m) in (nnx.MultiHeadAttention, nn.MultiHeadAttention)
  }
  seen = None
  if example or named:
    seen = _trace.trace(model, layers, list(attentions), example, named)
  elif any(rule.position is not None for rule in chosen):
    raise errors.UserError(
      "a rule with a position needs to know which layer runs first and which"
      " last; give what the model is called with:"
      " jbin.quantize(model, rules, x)"
    )
  entries = [
    _entry.layer_entry(path, layer, chosen, seen)
    for path, layer in layers.items()
  ]
  entries += [
    _entry.attention_entry(path, part, chosen, seen)
    for path, part in attentions.items()
  ]
  _check_used(chosen, entries, [*layers, *attentions], parts)
  entries.sort(key=lambda entry: _when(entry, seen))
  others = seen.others if seen is not None else ()
  entries += _entry.product_entries(others, parts)
  entries += _entry.other_modules(parts, {**layers, **attentions}, others)
  made = Plan(tuple(entries), chosen)
  if seen is not None:
    _try(made, model, example, named)
  return made


def _try(
  made: Plan, model: nnx.Module, example: Sequence[Any], named: Any
) -> None:
  """Runs the converted model on abstract values: does it run at all."""
  low = nnx.eval_shape(lambda m: made.apply(m, rngs=nnx.Rngs(0)), model)
  names = list(named)

  def call(low: nnx.Module, *inputs: Any) -> Any:
    given = dict(zip(names, inputs[len(example) :], strict=True))
    return low(*inputs[: len(example)], **given)

  try:
    cost.count(call, low, *example, *named.values())
  except errors.UserError as error:
    raise errors.UserError(
      f"the model does not run on the example once it is converted: {error}"
    ) from error


def name_of(keys: Any) -> str:
  """A path of tree keys as the plan writes it."""
  return jax.tree_util.keystr(keys, simple=True, separator="/")


def _refuse_shared(model: nnx.Module) -> None:
  places: dict[int, str] = {}
  leaves = jax.tree_util.tree_leaves_with_path(
    model, is_leaf=lambda part: isinstance(part, nnx.Variable)
  )
  for keys, part in leaves:
    here = name_of(keys)
    if isinstance(part, nnx.Module):
      raise errors.UserError(
        f"'{here or 'the model'}' is a module with pytree=False, which cannot"
        " be copied as a tree; leave that option out"
      )
    if not isinstance(part, nnx.Param):
      continue
    if before := places.get(id(part)):
      raise errors.UserError(
        f"'{before}' and '{here}' are one variable; a model is a tree here:"
        " give each place a variable of its own, or use the first in both"
      )
    places[id(part)] = here


def _when(entry: Entry, seen: _trace.Trace | None) -> float:
  """When it runs; layers that did not run come last, in the order of paths."""
  order = seen.order if seen is not None else ()
  if entry.path in order:
    return order.index(entry.path)
  inside = [
    order.index(path)
    for path in (f"{entry.path}/{part}" for part in ("query", "key", "value"))
    if path in order
  ]
  return max(inside) + 0.5 if inside else len(order)


def _check_used(
  rules: Sequence[_rule.Rule],
  entries: Sequence[Entry],
  paths: Sequence[str],
  parts: Mapping[str, Any],
) -> None:
  """Refuses a rule that took nothing."""
  used = {entry.rule for entry in entries}
  for index, rule in enumerate(rules):
    if index in used or rule.optional:
      continue
    fitting = [path for path in paths if re.fullmatch(rule.path, path)]
    others = [path for path in parts if re.fullmatch(rule.path, path)]
    if not fitting and others:
      cure = (
        f"{others[0]!r} is a {type(parts[others[0]]).__name__}, which rules do"
        " not reach: they take Flax's own layers, not subclasses or modules"
        " that hold layers"
      )
    elif fitting and not rule.slots(_rule.LAYER_SLOTS) and not rule.keeps:
      cure = "it has quantizers for attentions only, and fits none"
    elif fitting:
      cure = (
        f"its path fits {fitting[0]!r}"
        + (f" and {len(fitting) - 1} more" if len(fitting) > 1 else "")
        + ", but an earlier rule takes them, or its other conditions do not"
        " hold"
      )
    else:
      literal = re.sub(r"\\(.)|[\^$]", r"\1", rule.path)
      near = difflib.get_close_matches(literal, paths, n=3, cutoff=0.0)
      cure = f"the nearest paths are {', '.join(map(repr, near)) or 'none'}"
    raise errors.UserError(
      f"rule {index} takes no layer: {rule}; {cure}. Mend it, or say"
      " optional=True"
    )
