"""Latent weights among the parameters: where they are, how they lie."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jbin import nn, quantizers
from jbin.optimizers import _base

Layout = Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Latent:
  """How a latent weight lies; in a mask it is as good as True.

  Attributes:
    stack: leading axes of a stack of layers, as `nnx.vmap` makes it.
    layout: arranges the weight of one layer as its quantizer sees it, output
      channels last; None: as it is.
    level: the magnitude that its quantizer gives it, where that is fixed:
      BinaryConnect's H; else 1.
  """

  stack: int = 0
  layout: Layout | None = None
  level: float = 1.0

  def each(
    self, function: Callable[[jax.Array], jax.Array], w: jax.Array
  ) -> jax.Array:
    """`function` of each layer as its quantizer sees it, put back in place."""

    def one(x: jax.Array) -> jax.Array:
      if self.layout is None:
        return function(x)
      # A rearrangement's transpose is its inverse.
      arranged, back = jax.vjp(self.layout, x)
      return back(function(arranged))[0]

    for _ in range(self.stack):
      one = jax.vmap(one)
    return one(w)

  def layers(self, w: jax.Array) -> list[jax.Array]:
    """The tensor of each layer, as its quantizer sees it."""
    shape = w.shape[self.stack :]
    parts = jnp.unstack(w.reshape(-1, *shape)) if self.stack else [w]
    layout = self.layout
    return list(parts) if layout is None else [layout(x) for x in parts]


def each(
  here: Any, function: Callable[[jax.Array], jax.Array], w: jax.Array
) -> jax.Array:
  """As `Latent.each`; where a mask has True, the array is one layer."""
  latent = here if isinstance(here, Latent) else Latent()
  return latent.each(function, w)


def latent_mask(
  model: nnx.Module, most_bits: int = 8, wrt: nnx.filterlib.Filter = nnx.Param
) -> Any:
  """A mask of the latent weights of a model.

  Args:
    model: any module, abstract (`nnx.eval_shape`) or not.
    most_bits: of the quantizers whose weights it reaches: 1 for binary ones,
      2 for ternary ones too.
    wrt: which variables are trained, as `nnx.Optimizer` has it. The
      transformations of this room find the parts of a larger mask, but
      `optax.masked` wants a tree of its own parameters.

  Returns:
    A tree as `nnx.state(model, wrt)`, with a leaf in the place of each
    variable: `Latent` for the weights of `nn.latents(model)` whose quantizers
    are narrow enough, else False. It fits states of variables and, as
    `nnx.Optimizer` has them, of arrays.
  """
  found = nn.latents(model)
  params = nnx.state(model, wrt)
  flags = {}
  for path, variable in nnx.to_flat_state(params):
    flags[path] = False
    if path in found and found[path].spec.bits <= most_bits:
      flags[path] = _latent(variable.get_value(), found[path])
  return nnx.from_flat_state(flags)


def _latent(w: Any, quantizer: nn.Quantizer) -> Latent:
  rank, spec = quantizer.rank, quantizer.spec
  stack = 0 if rank is None else len(w.shape) - rank
  one = jax.ShapeDtypeStruct(w.shape[stack:], w.dtype)
  if quantizer.layout is not None:
    one = jax.eval_shape(quantizer.layout, one)
  while isinstance(spec, quantizers.delayed):
    spec = spec.quantizer
  level = 1.0
  if isinstance(spec, quantizers.binaryconnect):
    level = spec.limit(one.shape)
  return Latent(stack, quantizer.layout, level)


def latent_layers(params: Any, mask: _base.Mask) -> list[jax.Array]:
  """The latent weights of each layer, as its quantizer sees them.

  Args:
    params: the parameters that the mask is of.
    mask: as `latent_mask` gives it.

  Returns:
    One array for each layer, those of a stack one by one; differentiable.
  """
  leaves = jax.tree.leaves(params)
  found: list[jax.Array] = []
  for w, here in zip(leaves, _base.spread(mask, params), strict=True):
    if here:
      latent = here if isinstance(here, Latent) else Latent()
      found += latent.layers(w)
  return found
