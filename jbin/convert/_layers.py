"""Flax's layers, ours that take quantizers, and the way there and back."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn import dtypes
from jax import lax

from jbin import errors, nn, products, quantizers
from jbin.convert import _rule


@dataclasses.dataclass(frozen=True)
class Kind:
  """A kind of layer that rules reach.

  Attributes:
    flax: Flax's class.
    ours: the subclass that takes quantizers.
    slots: the rule's names of the quantizers -> the layer's.
    kernel: the attribute that holds the weight.
    shape: layer -> the shape that one weight has (a stack of layers, as
      `nnx.vmap` makes it, has leading axes more).
    channels: layer -> length of the last axis of the input, and of the weight
      as the quantizer sees it.
    hooks: attributes that change the arithmetic -> their harmless value.
  """

  flax: type[nnx.Module]
  ours: type[nnx.Module]
  slots: Mapping[str, str]
  kernel: str
  shape: Callable[[Any], tuple[int, ...]]
  channels: Callable[[Any], tuple[int, int]]
  hooks: Mapping[str, Any]


_BOTH = {name: name for name in _rule.LAYER_SLOTS}
_PROMOTE = {
  "promote_dtype": dtypes.promote_dtype,
  "preferred_element_type": None,
}
_DOT = {**_PROMOTE, "dot_general": (None, lax.dot_general)}


def _linear(layer: Any) -> tuple[int, int]:
  return layer.in_features, layer.out_features


def _conv_shape(layer: Any) -> tuple[int, ...]:
  return tuple(layer.kernel_shape)


def _einsum_channels(layer: Any) -> tuple[int, int]:
  left, right = layer.einsum_str.replace(" ", "").split("->")[0].split(",")
  sizes = dict(zip(right, layer.kernel_shape, strict=False))
  return sizes.get(left[-1], 1), layer.kernel_shape[-1]


def _general_shape(layer: Any) -> tuple[int, ...]:
  return (
    *layer.batch_axis.values(),
    *layer.in_features,
    *layer.out_features,
  )


KINDS = (
  Kind(
    nnx.Linear,
    nn.Linear,
    _BOTH,
    "kernel",
    lambda layer: (layer.in_features, layer.out_features),
    _linear,
    _DOT,
  ),
  Kind(
    nnx.Conv,
    nn.Conv,
    _BOTH,
    "kernel",
    _conv_shape,
    _linear,
    {
      **_PROMOTE,
      "mask": None,
      "conv_general_dilated": (
        None,
        lax.conv_general_dilated,
        nn.depthwise_conv,  # the same, up to rounding
      ),
    },
  ),
  Kind(
    nnx.ConvTranspose,
    nn.ConvTranspose,
    _BOTH,
    "kernel",
    _conv_shape,
    _linear,
    {**_PROMOTE, "mask": None},
  ),
  Kind(
    nnx.LinearGeneral,
    nn.LinearGeneral,
    _BOTH,
    "kernel",
    _general_shape,
    lambda layer: (
      math.prod(layer.in_features),
      math.prod((*layer.batch_axis.values(), *layer.out_features)),
    ),
    {**_DOT, "dot_general_cls": None},
  ),
  Kind(
    nnx.Einsum,
    nn.Einsum,
    _BOTH,
    "kernel",
    lambda layer: tuple(layer.kernel_shape),
    _einsum_channels,
    {**_PROMOTE, "einsum_op": (None, jnp.einsum)},
  ),
  Kind(
    nnx.Embed,
    nn.Embed,
    {"kernel_quantizer": "embedding_quantizer"},
    "embedding",
    lambda layer: (layer.num_embeddings, layer.features),
    lambda layer: (layer.features, layer.features),
    {"promote_dtype": dtypes.promote_dtype},
  ),
)


def kind_of(layer: Any) -> Kind | None:
  """The kind of exactly this class; a subclass may compute something else."""
  for kind in KINDS:
    if type(layer) in (kind.flax, kind.ours):
      return kind
  return None


def is_layer(layer: Any) -> bool:
  """Whether rules reach it as a layer with a kernel."""
  return kind_of(layer) is not None


def held(part: Any) -> dict[str, quantizers.Quantizer]:
  """The quantizers of a layer or an attention, under the rule's names."""
  kind = kind_of(part)
  pairs = {name: name for name in _rule.ATTENTION_SLOTS}
  if kind is not None:
    pairs = kind.slots
  elif isinstance(part, nnx.MultiHeadAttention):
    part = part.attention_fn
  found = {name: getattr(part, own, None) for name, own in pairs.items()}
  return {name: q.spec for name, q in found.items() if q is not None}


def stack(layer: Any, kind: Kind) -> tuple[int, ...] | None:
  """The leading axes of a stack of layers; None if the weight has others."""
  one = kind.shape(layer)
  shape = tuple(getattr(layer, kind.kernel).shape)
  extra = len(shape) - len(one)
  return shape[:extra] if extra >= 0 and shape[extra:] == one else None


def attention_stack(part: nnx.MultiHeadAttention) -> tuple[int, ...]:
  """The leading axes of a stack of attentions; () of a single one."""
  kind = kind_of(part.query)
  return (kind and stack(part.query, kind)) or ()


def hook(layer: Any, kind: Kind) -> str | None:
  """The first attribute with arithmetic of its own; None if there is none."""
  for name, harmless in kind.hooks.items():
    given = getattr(layer, name, None)
    allowed = harmless if isinstance(harmless, tuple) else (harmless,)
    if given is not None and all(given is not item for item in allowed):
      return name
  return None


def adopt(
  layer: Any,
  slots: Mapping[str, quantizers.Quantizer],
  rngs: nnx.Rngs | None,
  grad_precision: products.GradPrecision = "float32",
  output_scale: Callable[[], Any] | None = None,
) -> None:
  """Makes a layer one of the class that takes quantizers, with these.

  Its variables, with their metadata, and all its attributes stay.

  Args:
    layer: of one of `KINDS`; it is changed.
    slots: the rule's names -> quantizers.
    rngs: for quantizers that draw.
    grad_precision: of the gradient products.
    output_scale: makes that of a layer that can have one; None: nothing does.
  """
  kind = kind_of(layer)
  assert kind is not None
  # A layer of ours keeps its own wishes.
  own = getattr(layer, "grad_precision", "float32")
  # Past NNX's bookkeeping of attributes, which would note it as one.
  object.__setattr__(layer, "__class__", kind.ours)
  inputs, outputs = kind.channels(layer)
  kernel = getattr(layer, kind.kernel).get_value()
  abstract = isinstance(kernel, jax.ShapeDtypeStruct)
  lead = stack(layer, kind) or ()
  for name, attribute in kind.slots.items():
    spec = slots.get(name)
    is_kernel = name == "kernel_quantizer"
    held = None
    if spec is not None:
      make = functools.partial(
        nn.Quantizer,
        spec,
        outputs if is_kernel else inputs,
        layout=getattr(layer, "kernel_layout", None) if is_kernel else None,
      )
      streams = rngs if draws(spec) else None
      seen = kernel if is_kernel else None
      held = hold(make, seen, streams, lead, abstract)
    setattr(layer, attribute, nnx.data(held))
  if kind.ours is not nn.Embed:
    layer.grad_precision = grad_precision if own == "float32" else own
  scaled = kind.ours in (nn.Conv, nn.Linear)
  if scaled and getattr(layer, "output_scale", None) is None:
    scale = None
    if output_scale is not None:
      alone = functools.partial(_without_rngs, output_scale)
      scale = hold(alone, None, None, lead, abstract)
    layer.output_scale = nnx.data(scale)


def _without_rngs(make: Callable[[], Any], rngs: nnx.Rngs | None) -> Any:
  del rngs
  return make()


def attention_fn(
  part: nnx.MultiHeadAttention,
  slots: Mapping[str, quantizers.Quantizer],
  rngs: nnx.Rngs | None,
  grad_precision: products.GradPrecision = "float32",
  normalize: _rule.Normalize = "softmax",
) -> nn.DotProductAttention:
  """The function that takes the place of Flax's, stacked as the layer is.

  Args:
    part: the attention.
    slots: the rule's names -> quantizers.
    rngs: for quantizers that draw.
    grad_precision: of the gradient products.
    normalize: the rule's word for what makes weights of scores.
  """
  make = functools.partial(
    nn.DotProductAttention,
    part.head_dim,
    **slots,  # pyright: ignore[reportArgumentType]
    grad_precision=grad_precision,
    normalize=_rule.NORMALIZE[normalize],
  )
  kernel = part.query.kernel.get_value()
  abstract = isinstance(kernel, jax.ShapeDtypeStruct)
  streams = rngs if any(map(draws, slots.values())) else None
  return hold(make, None, streams, attention_stack(part), abstract)


def draws(spec: quantizers.Quantizer) -> bool:
  """Whether a quantizer needs random streams."""
  return spec.seeded or spec.stochastic


def hold(
  make: Callable[..., Any],
  kernel: Any,
  rngs: nnx.Rngs | None,
  lead: tuple[int, ...],
  abstract: bool,
) -> Any:
  """A module that holds quantizers; of a stack, with stacks of variables.

  Args:
    make: (x=kernel, rngs=streams) -> module; without `x` if there is no kernel.
    kernel: the tensor, where it is one.
    rngs: None where nothing is drawn.
    lead: the stack's axes.
    abstract: whether to make no arrays.
  """
  keys = None
  if rngs is not None:
    keys = jax.random.split(rngs.params(), lead) if lead else rngs.params()

  def one(kernel: Any, key: Any) -> Any:
    seen = {} if kernel is None else {"x": kernel}
    return make(**seen, rngs=None if key is None else nnx.Rngs(key))

  if not lead and not abstract:
    return one(kernel, keys)

  def state(kernel: Any, key: Any) -> Any:
    return nnx.split(one(kernel, key))[1]

  def single(leaf: Any) -> Any:
    return jax.ShapeDtypeStruct(leaf.shape[len(lead) :], leaf.dtype)

  singles = jax.tree.map(single, (kernel, keys))
  graphdef = nnx.split(nnx.eval_shape(one, *singles))[0]
  for size in reversed(lead):
    state = jax.vmap(state, axis_size=size)
  run = functools.partial(jax.eval_shape, state) if abstract else state
  return nn.mark_stack(nnx.merge(graphdef, run(kernel, keys)), len(lead))


def release(layer: Any) -> None:
  """Makes one of ours Flax's own layer; variables stay, quantizers go.

  The output_scale of a low-bit layer goes with its quantizers.

  Args:
    layer: of one of `KINDS`; it is changed.

  Raises:
    errors.UserError: if it is a float layer with an output_scale.
  """
  kind = kind_of(layer)
  assert kind is not None
  if not isinstance(layer, kind.ours):
    return
  if not held(layer) and getattr(layer, "output_scale", None) is not None:
    raise errors.UserError(
      f"{type(layer).__name__}: its output_scale has no place in Flax's"
      " layer; take it out first"
    )
  for attribute in (*kind.slots.values(), "grad_precision", "output_scale"):
    if hasattr(layer, attribute):
      delattr(layer, attribute)
  object.__setattr__(layer, "__class__", kind.flax)
