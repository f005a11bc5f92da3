"""A rule: which layers, and what quantizes them."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

from flax import nnx

from jbin import errors, nn, products, quantizers

Position = Literal["first", "last", "inner"]
_POSITIONS = ("first", "last", "inner")
Normalize = Literal["softmax", "none"]
NORMALIZE: dict[str, Callable[[Any], Any] | None] = {
  "softmax": None,
  "none": nn.raw_scores,
}
"""What a rule says -> what `nn.DotProductAttention` takes."""

Spec = quantizers.Quantizer | None

# By name, as a config gives them.
OUTPUT_SCALES: dict[str, Callable[..., Any]] = {
  "XnorMap": nn.XnorMap,
  "SpatialScale": nn.SpatialScale,
  "OutputNorm": nn.OutputNorm,
}
_SIZES = ("height", "width")


@dataclasses.dataclass(frozen=True)
class Rule:
  """Which layers, and what quantizes their input, kernel or attention.

  Of a list of rules the first that fits a layer takes it. A rule without
  quantizers keeps what it takes in float. A rule that takes nothing is an
  error, unless `optional`.

  Attributes:
    path: regular expression that the layer's whole path must match
      ("blocks/[0-9]+/conv.*").
    type: a class, or the name of one ("Linear"), or several; None: any.
    position: "first" and "last" are the layers whose product comes first and
      last when the model runs on the example, "inner" all others. A stack of
      layers, as `nnx.vmap` makes it, is one layer here: where one of its
      members runs first, all of them are "first".
    min_size: elements of the kernel, at least; in a stack, of one layer's.
    max_size: the same, at most; None: any number.
    input_quantizer: of a layer's input.
    kernel_quantizer: of its kernel, or of an embedding's table.
    query_quantizer: of the queries of an attention.
    key_quantizer: of its keys.
    weights_quantizer: of its probabilities.
    value_quantizer: of its values.
    normalize: what makes the scores of an attention its weights, in front of
      the `weights_quantizer`: "softmax", or "none" where that takes the scores
      themselves (BiBERT).
    output_scale: what makes, for each layer, a module that its product goes
      through before the bias: for convolutions `nn.XnorMap` (XNOR-Net's K) and
      `nn.SpatialScale` (XNOR-Net++'s rows and columns), for linear layers too
      `nn.OutputNorm` (OneBit's norm), or their names. Layers that are not
      among its `layers` (without that attribute: convolutions) go without. It
      is called with the output's `height` and `width`, where it needs them.
    start: progress from which all of these are on; floats before.
    grad_precision: of the gradient products of a layer that it quantizes,
      "float32" (exact) or "bfloat16".
    optional: whether it may take nothing.
    note: printed in the plan beside what it takes.
  """

  path: str = ".*"
  type: Any = None
  position: Position | None = None
  min_size: int = 0
  max_size: int | None = None
  input_quantizer: Spec = None
  kernel_quantizer: Spec = None
  query_quantizer: Spec = None
  key_quantizer: Spec = None
  weights_quantizer: Spec = None
  value_quantizer: Spec = None
  normalize: Normalize = "softmax"
  output_scale: Callable[..., Any] | str | None = None
  start: float = 0.0
  grad_precision: products.GradPrecision = "float32"
  optional: bool = False
  note: str = ""

  def __post_init__(self) -> None:
    """Checks what can be checked without a model.

    Raises:
      errors.UserError: for a path that is no regular expression, an unknown
        position or output_scale, or what is not a quantizer.
    """
    kinds = {
      "path": str,
      "min_size": int,
      "max_size": int | None,
      "start": int | float,
      "note": str,
    }
    for name, kind in kinds.items():
      if not isinstance(getattr(self, name), kind):
        raise errors.UserError(
          f"a rule's {name} is {getattr(self, name)!r}; it must be of type"
          f" {getattr(kind, '__name__', kind)}"
        )
    try:
      re.compile(self.path)
    except re.error as error:
      raise errors.UserError(
        f"the rule's path {self.path!r} is no regular expression: {error}"
      ) from error
    if self.position is not None and self.position not in _POSITIONS:
      raise errors.UnknownName("position", self.position, _POSITIONS)
    known = get_args(products.GradPrecision)
    if self.grad_precision not in known:
      raise errors.UnknownName("grad_precision", self.grad_precision, known)
    for name in SLOTS:
      spec = getattr(self, name)
      if spec is not None and not isinstance(spec, quantizers.Quantizer):
        raise errors.UserError(
          f"the rule for {self.path!r}: {name} is {spec!r}; it must be a"
          " quantizer, such as jbin.quantizers.sign(), or None"
        )
    self._check_output_scale()
    self._check_normalize()
    if self.keeps and (self.start or self.grad_precision != "float32"):
      raise errors.UserError(
        f"the rule for {self.path!r} has no quantizers, so start and"
        " grad_precision say nothing; leave them out, or give it quantizers"
      )
    if not 0.0 <= self.start <= 1.0:
      raise errors.UserError(
        f"the rule for {self.path!r}: start is {self.start}; it must be a"
        " progress from 0 to 1"
      )

  def _check_normalize(self) -> None:
    """That raw scores meet a quantizer, and do so from the start."""
    if self.normalize not in NORMALIZE:
      raise errors.UnknownName("normalize", self.normalize, NORMALIZE)
    if self.normalize == "softmax":
      return
    if self.weights_quantizer is None:
      raise errors.UserError(
        f"the rule for {self.path!r}: normalize={self.normalize!r} gives the"
        " scores to a weights_quantizer, and it has none; such as"
        ' jbin.quantizers.ste_heaviside(edge="open")'
      )
    if self.start > 0:
      raise errors.UserError(
        f"the rule for {self.path!r}: normalize={self.normalize!r} leaves no"
        f" float attention to have before start={self.start}; leave start out"
      )

  def _check_output_scale(self) -> None:
    """A name becomes what it stands for."""
    scale = self.output_scale
    if scale is None:
      return
    if isinstance(scale, str):
      if scale not in OUTPUT_SCALES:
        raise errors.UnknownName("output_scale", scale, OUTPUT_SCALES)
      object.__setattr__(self, "output_scale", OUTPUT_SCALES[scale])
    elif not callable(scale) or isinstance(scale, nnx.Module):
      raise errors.UserError(
        f"the rule for {self.path!r}: output_scale is {scale!r}; it must be"
        " what makes one for each layer, such as jbin.nn.XnorMap"
      )
    if not self.slots(LAYER_SLOTS):
      raise errors.UserError(
        f"the rule for {self.path!r} has an output_scale, but neither an"
        " input_quantizer nor a kernel_quantizer; give it one"
      )

  def slots(self, names: Sequence[str]) -> dict[str, quantizers.Quantizer]:
    """The quantizers among `names` that it sets, delayed to `start`."""
    found: dict[str, quantizers.Quantizer] = {}
    for name in names:
      spec = getattr(self, name)
      if spec is not None:
        late = self.start > 0
        found[name] = quantizers.delayed(spec, self.start) if late else spec
    return found

  @property
  def keeps(self) -> bool:
    """Whether it leaves what it takes in float."""
    return all(getattr(self, name) is None for name in SLOTS)

  def __str__(self) -> str:
    """The fields that differ from their defaults."""
    shown: dict[str, Callable[[Any], str]] = {
      **dict.fromkeys(SLOTS, str),
      "type": type_name,
      "output_scale": name_of,
    }
    parts = [
      f"{field.name}={shown.get(field.name, repr)(getattr(self, field.name))}"
      for field in dataclasses.fields(self)
      if getattr(self, field.name) != field.default
    ]
    return f"Rule({', '.join(parts)})"


LAYER_SLOTS = ("input_quantizer", "kernel_quantizer")
ATTENTION_SLOTS = (
  "query_quantizer",
  "key_quantizer",
  "weights_quantizer",
  "value_quantizer",
)
SLOTS = (*LAYER_SLOTS, *ATTENTION_SLOTS)


def has_type(layer: Any, wanted: Any) -> bool:
  """Whether a layer is of a class, of a class with that name, or of several."""
  if wanted is None:
    return True
  if isinstance(wanted, list | tuple):
    return any(has_type(layer, item) for item in wanted)
  if isinstance(wanted, str):
    return any(cls.__name__ == wanted for cls in type(layer).__mro__)
  return isinstance(layer, wanted)


def type_name(wanted: Any) -> str:
  """A rule's type as a plan prints it."""
  if isinstance(wanted, list | tuple):
    return f"({', '.join(map(type_name, wanted))})"
  return wanted if isinstance(wanted, str) else wanted.__name__


def scaled_layers(make: Any) -> tuple[str, ...]:
  """The names of Flax's classes whose output an output_scale may have."""
  while isinstance(make, functools.partial):
    make = make.func
  return getattr(make, "layers", ("Conv",))


def name_of(make: Any) -> str:
  """The name of what makes an output_scale."""
  while isinstance(make, functools.partial):
    make = make.func
  return getattr(make, "__name__", repr(make))


def sizes_of(make: Callable[..., Any]) -> tuple[str, ...]:
  """The sizes of the output that it is to be called with."""
  call = make
  part = (
    make if isinstance(make, functools.partial) else functools.partial(make)
  )
  if isinstance(
    part.func, type
  ):  # NNX's classes have the metaclass's signature
    call = functools.partial(
      part.func.__init__, None, *part.args, **part.keywords
    )
  takes = inspect.signature(call).parameters.values()
  needed = [p.name for p in takes if p.default is p.empty]
  return tuple(name for name in _SIZES if name in needed)
