"""An unmodified model made low-bit, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from flax import nnx

from jbin import errors, nn, references
from jbin.convert import _layers, _plan, _rule

M = TypeVar("M", bound=nnx.Module)


def quantize(
  model: M,
  rules: _rule.Rule | Sequence[_rule.Rule],
  *example: Any,
  quantizer_rngs: nnx.Rngs | None = None,
  **named: Any,
) -> M:
  """A low-bit copy of an NNX model, by rules; `plan` shows them first.

  Layers become those of `jbin.nn` with the rules' quantizers; parameters,
  names, shardings and random streams are those of `model`, which stays as it
  is. The copy trains, is saved and is counted like any other model.

  Args:
    model: an NNX module of any origin, abstract ones included.
    rules: the first that fits a layer takes it.
    *example: what the model is called with; needed where a rule has a
      position.
    quantizer_rngs: for quantizers that draw their parameters, or in training.
    **named: the example by name (`rngs`, where the model takes them).

  Raises:
    errors.UserError: as `plan`, and for a quantizer that draws, without
      `quantizer_rngs`.
  """
  chosen = _plan.plan(model, rules, *example, **named)
  return chosen.apply(model, rngs=quantizer_rngs)  # pyright: ignore[reportReturnType]


def dequantize(model: M) -> M:
  """A float copy: Flax's own layers with the same latent weights.

  What quantizers had learned or measured is left behind. Models of
  `jbin.models` become their float twins.

  Args:
    model: an NNX module.

  Raises:
    errors.UserError: if a quantizer would be left, in a module of the user's.
  """
  new = nnx.clone(model)  # as a graph: what is shared stays so
  for path, part in list(nnx.iter_modules(new)):
    if _layers.is_layer(part):
      try:
        _layers.release(part)
      except errors.UserError as error:
        where = "/".join(map(str, path))
        raise errors.UserError(f"layer '{where}': {error}") from error
    own = getattr(part, "attention_fn", None)
    if isinstance(part, nnx.MultiHeadAttention) and isinstance(
      own, nn.DotProductAttention
    ):
      # Raw scores are a rule's: they mean nothing to a float attention.
      if own.normalize in (None, nn.raw_scores):
        part.attention_fn = nnx.static(nnx.dot_product_attention)
      else:  # not softmax: Flax's function would compute something else
        part.attention_fn = nnx.data(
          nn.DotProductAttention(
            own.head_dim, value_dim=own.value_dim, normalize=own.normalize
          )
        )
  left = [
    "/".join(map(str, path))
    for path, part in nnx.iter_modules(new)
    if isinstance(part, nn.Quantizer)
  ]
  if left:
    raise errors.UserError(
      f"dequantize: '{left[0]}' is a quantizer of a module that is no layer of"
      " Flax or jbin; take it out of that module"
    )
  return new


def cite(model: nnx.Module) -> str:
  """The BibTeX of every method that a model is made of.

  Args:
    model: an NNX module, quantized by rules or made of `jbin.nn` layers.
  """
  keys: list[str] = []
  for _, part in nnx.iter_modules(model):
    held = part.spec if isinstance(part, nn.Quantizer) else part
    keys += references.of(held)
  return references.bibtex(keys)
