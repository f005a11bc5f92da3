"""Named sets of rules, as configs ask for them."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from jbin import errors, methods, quantizers, registry, schedules
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


# --- Transformers ----------

_LINEAR = ("Linear", "LinearGeneral", "MultiHeadAttention")
_ATTENTION = r"(.*/)?attn(/.*)?"
_MLP = r"(.*/)?mlp/.*"
_BERT = r"(.*/)?(layers/.*|pooler(/.*)?)"
# Low-rank estimates beside an attention are float in every paper.
_RESIDUAL = Rule(r".*/residual/.*", optional=True, note="low-rank estimates")
_TABLES = {
  "words": r"(.*/)?words",
  "all": r"(.*/)?(words|positions|types)",
  "none": None,
}


def _chosen(option: str, given: str, known: Sequence[str]) -> str:
  """The option's value.

  Raises:
    errors.UnknownName: if there is no such one.
  """
  if given not in known:
    raise errors.UnknownName(option, given, known)
  return given


def _factors(
  sign: quantizers.Quantizer, weights: quantizers.Quantizer
) -> dict[str, Any]:
  """A rule's four factors of attention: one quantizer for all but weights."""
  return {
    "query_quantizer": sign,
    "key_quantizer": sign,
    "weights_quantizer": weights,
    "value_quantizer": sign,
  }


def _bool_attention() -> dict[str, Any]:
  """BiBERT's: signs, and scores compared with zero in place of softmax."""
  step = quantizers.ste_heaviside(edge="open")
  return {
    **_factors(quantizers.sign(edge="open"), step),
    "normalize": "none",
  }


def _table_rules(tables: str, quantizer: quantizers.Quantizer) -> list[Rule]:
  """The rule for tables of embeddings, one scale for each token."""
  path = _TABLES[_chosen("tables", tables, tuple(_TABLES))]
  if path is None:
    return []
  note = "a scale for each token"
  return [
    Rule(
      path,
      type="Embed",
      kernel_quantizer=quantizer,
      note=note,
    )
  ]


@REGISTRY.register
def bivit(
  mlp: Literal["w1a1", "w1a32", "float"] = "w1a32",
  attention: Literal["sab", "bool"] = "sab",
  scales: Literal["learned", "mean"] = "learned",
  mlp_start: float = 0.0,
  beta: schedules.Hyper = 0.25,
  attention_path: str = _ATTENTION,
  mlp_path: str = _MLP,
) -> list[Rule]:
  """BiViT: attention binary from the start, MLPs from a later progress.

  Projections have signs of inputs and centred signs of kernels; queries, keys
  and values are signs, probabilities 0 and 1. All else is float, as in the
  paper: patches, norms, patch merging, the head, and convolutions.
  Reference: arXiv 2211.07091. Differs from the paper in: its two stages are
  two runs, and scales of the MLPs start from the kernels of the second.

  Args:
    mlp: "w1a1", "w1a32" (float inputs) or "float".
    attention: "sab", softmax-aware, or "bool", BiBERT's comparison of the
      scores with zero: the paper's baseline.
    scales: of kernels, "learned", or "mean": the mean magnitude.
    mlp_start: progress from which MLPs are binary (cross-layer binarization,
      0.5 in the paper); 0 for all at once.
    beta: the share of the largest probability that is 1; a number or a
      schedule.
    attention_path: regular expression of attentions and their projections.
    mlp_path: of the layers of MLPs.

  Raises:
    errors.UserError: if an option is unknown, or `mlp_start` says nothing.
  """
  _chosen("mlp", mlp, ("w1a1", "w1a32", "float"))
  _chosen("attention", attention, ("sab", "bool"))
  _chosen("scales", scales, ("learned", "mean"))
  sign = quantizers.sign(edge="open")
  kernel = quantizers.bivit_weight(learned=scales == "learned")
  factors = _factors(sign, quantizers.sab(beta))
  if attention == "bool":
    factors = _bool_attention()
  rules = [
    _RESIDUAL,
    Rule(
      attention_path,
      type=_LINEAR,
      input_quantizer=sign,
      kernel_quantizer=kernel,
      **factors,
    ),
  ]
  if mlp != "float":
    rules.append(
      Rule(
        mlp_path,
        type=_LINEAR,
        input_quantizer=sign if mlp == "w1a1" else None,
        kernel_quantizer=kernel,
        start=mlp_start,
      )
    )
  elif mlp_start:
    raise errors.UserError(
      f"bivit: mlp='float' has no mlp_start, and it is {mlp_start}"
    )
  return rules


@REGISTRY.register
def bibert(
  tables: Literal["words", "all", "none"] = "words",
  attention: Literal["bool", "softmax"] = "bool",
  path: str = _BERT,
) -> list[Rule]:
  """BiBERT: every linear layer of one bit, attention without softmax.

  Signs of inputs, centred signs of kernels with their mean magnitude, signs
  of queries, keys and values, scores compared with zero. What the path leaves
  out, such as the classifier's head, is float. Reference: arXiv 2203.06390.

  Args:
    tables: of embeddings, the binary ones: "words" as in the code, "all" as
      the paper counts sizes, or "none".
    attention: "bool"; or "softmax", the plain baseline: the sign of a
      probability, which is 1 wherever a key may be seen.
    path: regular expression of the layers.

  Raises:
    errors.UserError: if an option is unknown.
  """
  _chosen("attention", attention, ("bool", "softmax"))
  factors = _bool_attention()
  if attention == "softmax":
    sign = quantizers.sign(edge="open")
    factors = _factors(sign, quantizers.ste_heaviside())
  return [
    *_table_rules(tables, quantizers.bibert_weight((0,))),
    _RESIDUAL,
    Rule(
      path,
      type=_LINEAR,
      input_quantizer=quantizers.sign(),
      kernel_quantizer=quantizers.bibert_weight(),
      **factors,
    ),
  ]


@REGISTRY.register
def bipft(
  tables: Literal["words", "all", "none"] = "words",
  path: str = _BERT,
) -> list[Rule]:
  """BiPFT: BiT's elastic binarization of every linear layer and attention.

  Inputs are shifted and have a learned scale, as queries, keys, values and
  probabilities have; kernels are signs about the layer's mean. Softmax stays;
  the low-rank residuals of `nn.MultiHeadAttention` are float, as is what the
  path leaves out. Reference: arXiv 2312.08937.

  Args:
    tables: of embeddings, the binary ones.
    path: regular expression of the layers.

  Raises:
    errors.UserError: if an option is unknown.
  """
  elastic = quantizers.bit_activation
  return [
    *_table_rules(tables, quantizers.bit_weight((0,))),
    _RESIDUAL,
    Rule(
      path,
      type=_LINEAR,
      input_quantizer=elastic(shift=True),
      kernel_quantizer=quantizers.bit_weight(),
      **_factors(elastic(), elastic(signed=False)),
    ),
  ]
