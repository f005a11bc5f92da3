"""What a run on an example tells: the order of the layers, other products."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from flax import nnx

from jbin import cost
from jbin.convert import _layers


@dataclasses.dataclass(frozen=True)
class Product:
  """A product that no layer of a known kind makes.

  Attributes:
    name: where it is, as the cost report names it.
    shape: of its operands, channels last.
    macs: of one example.
    params: paths of the parameters in it.
  """

  name: str
  shape: tuple[tuple[int, ...], ...]
  macs: int
  params: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Trace:
  """A run on an example.

  Attributes:
    order: paths of the layers whose product ran, by their first one.
    last: path of the layer whose product came last.
    attention: paths of the attentions that ran.
    others: the products that belong to neither.
    sizes: path of a layer -> the shape of its first product, without the batch
      axis and the channels.
  """

  order: tuple[str, ...]
  last: str | None
  attention: frozenset[str]
  others: tuple[Product, ...]
  sizes: Mapping[str, tuple[int, ...]]


def trace(
  model: nnx.Module,
  layers: Mapping[str, Any],
  attentions: Sequence[str],
  args: Sequence[Any],
  kwargs: Mapping[str, Any],
) -> Trace:
  """Traces the model on abstract values; nothing is computed.

  Args:
    model: any module.
    layers: path -> layer, of the known kinds.
    attentions: paths of the attentions.
    args: what the model is called with.
    kwargs: the same by name.
  """
  seen = named_attention(model, attentions)
  names, values = list(kwargs), list(kwargs.values())

  def call(model: nnx.Module, *inputs: Any) -> Any:
    given = dict(zip(names, inputs[len(args) :], strict=True))
    return model(*inputs[: len(args)], **given)

  report = cost.count(call, seen, *args, *values)
  kernels = {
    f"{path}/{_kernel(layer)}".lstrip("/"): path
    for path, layer in layers.items()
  }
  order: dict[str, None] = {}
  last: str | None = None
  ran: set[str] = set()
  others: list[Product] = []
  sizes: dict[str, tuple[int, ...]] = {}
  for record in report.layers:
    owners = [kernels[p] for p in record.params if p in kernels]
    inside = [p for p in attentions if MARK + p in record.name.split("//")]
    if owners:
      order.update(dict.fromkeys(owners))
      last = owners[-1]
      for owner in owners:
        sizes.setdefault(owner, tuple(record.out_shape[:-1]))
    elif inside:
      ran.update(inside)
    else:
      shapes = (record.in_shape, record.kernel)
      others.append(Product(record.name, shapes, record.macs, record.params))
  return Trace(tuple(order), last, frozenset(ran), tuple(others), sizes)


MARK = "attention:"


def named_attention(model: nnx.Module, paths: Sequence[str]) -> nnx.Module:
  """A copy whose attention functions run in a scope with their path."""
  copy = jax.tree.map(lambda leaf: leaf, model)
  wanted = set(paths)
  for path, part in nnx.iter_modules(copy):
    where = "/".join(map(str, path))
    if where in wanted and isinstance(part, nnx.MultiHeadAttention):
      function = part.attention_fn
      if isinstance(function, nnx.Module):
        part.attention_fn = nnx.data(_Scoped(function, where))
      else:
        part.attention_fn = _scoped(function, where)
  return copy


class _Scoped(nnx.Module):
  """An attention function that is a module, in a scope."""

  def __init__(self, function: nnx.Module, where: str):
    self.function = function
    self.where = where

  def __call__(self, *args: Any, **kwargs: Any) -> Any:
    return _scoped(self.function, self.where)(*args, **kwargs)


def _scoped(function: Any, where: str) -> Any:
  def run(*args: Any, **kwargs: Any) -> Any:
    with jax.named_scope(f"//{MARK}{where}//"):
      return function(*args, **kwargs)

  return run


def _kernel(layer: Any) -> str:
  kind = _layers.kind_of(layer)
  assert kind is not None
  return kind.kernel
