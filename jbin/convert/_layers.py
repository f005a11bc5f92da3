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
      "conv_general_dilated": (None, lax.conv_general_dilated),
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


def has_quantizers(layer: Any) -> bool:
  """Whether it is one of ours, and low-bit already."""
  kind = kind_of(layer)
  return kind is not None and any(
    getattr(layer, name, None) is not None for name in kind.slots.values()
  )


def stack(layer: Any, kind: Kind) -> tuple[int, ...] | None:
  """The leading axes of a stack of layers; None if the weight has others."""
  one = kind.shape(layer)
  shape = tuple(getattr(layer, kind.kernel).shape)
  extra = len(shape) - len(one)
  return shape[:extra] if extra >= 0 and shape[extra:] == one else None


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
) -> Any:
  """The same layer as the class that takes quantizers, with these.

  Its variables, with their metadata, and all its attributes stay.

  Args:
    layer: of one of `KINDS`.
    slots: the rule's names -> quantizers.
    rngs: for quantizers that draw.
    grad_precision: of the gradient products.
  """
  kind = kind_of(layer)
  assert kind is not None
  new = _copy(layer)
  # Past NNX's bookkeeping of attributes, which would note it as one.
  object.__setattr__(new, "__class__", kind.ours)
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
        layout=getattr(new, "kernel_layout", None) if is_kernel else None,
      )
      streams = rngs if draws(spec) else None
      seen = kernel if is_kernel else None
      held = hold(make, seen, streams, lead, abstract)
    setattr(new, attribute, nnx.data(held))
  if kind.ours is not nn.Embed:
    # A layer of ours that a rule takes keeps its own wish for precision.
    own = getattr(layer, "grad_precision", None)
    wanted = grad_precision if own in (None, "float32") else own
    new.grad_precision = wanted
  if kind.ours is nn.Conv and not hasattr(new, "output_scale"):
    new.output_scale = nnx.data(None)
  return new


def _copy(module: Any) -> Any:
  """Another object with variables of its own around the same arrays."""
  return jax.tree.map(lambda leaf: leaf, module)


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
  return nnx.merge(graphdef, run(kernel, keys))


def release(layer: Any) -> Any:
  """Flax's own layer with the variables of one of ours; quantizers go."""
  kind = kind_of(layer)
  assert kind is not None
  new = _copy(layer)
  if isinstance(layer, kind.ours):
    for attribute in kind.slots.values():
      delattr(new, attribute)
    if hasattr(new, "grad_precision"):
      del new.grad_precision
    if getattr(new, "output_scale", None) is not None:
      raise errors.UserError(
        f"{type(layer).__name__}: its output_scale has no place in Flax's"
        " layer; take it out first"
      )
    if hasattr(new, "output_scale"):
      del new.output_scale
    object.__setattr__(new, "__class__", kind.flax)
  return new
