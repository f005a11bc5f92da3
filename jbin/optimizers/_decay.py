"""Which parameters weight decay reaches."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jbin import errors, nn
from jbin.optimizers import _base, _latents

CHOICES = ("kernels", "float", "latents", "learned", "all")

# What a layer of Flax or of `jbin.nn` has one of for each channel or head. By
# name, for in a stack of layers a vector has as many axes as a kernel.
_VECTORS = frozenset(
  {
    *("bias", "scale"),
    *("bias_x", "bias_y", "neg_slope", "pos_slope"),
    *("shift_in", "slope", "shift_out", "negative_slope"),
    *("height", "width"),
  }
)
# What quantizers learn is scales, bounds and offsets, but for these.
_MATRICES = frozenset({"kernel", "fc1", "fc2"})


def decayed(params: Any) -> Any:
  """A mask of the kernels: parameters with two axes and more, by name.

  Biases, the scales of norms, slopes and shifts of activations, and the
  scales, bounds and offsets that quantizers learn are none, however many axes
  they have: a layer made by `nnx.vmap` has one more, attention's biases have
  two. Nor are parameters of which their model says so (`nn.undecayed`), as
  class tokens, learned positions and tables of relative ones; that is on their
  NNX variables, and a tree of bare arrays does not have it.
  """

  def kernel(path: tuple[Any, ...], w: Any) -> bool:
    names = _base.name(path).split("/")
    if _learned(names):
      return jnp.ndim(w) > 1 and names[-1] in _MATRICES
    return jnp.ndim(w) > 1 and names[-1] not in _VECTORS

  def all_of(path: tuple[Any, ...], node: Any) -> Any:
    apart = nn.is_undecayed(node)
    reached = lambda rest, w: not apart and kernel((*path, *rest), w)
    return jax.tree_util.tree_map_with_path(reached, node)

  is_variable = lambda node: isinstance(node, nnx.Variable)
  return jax.tree_util.tree_map_with_path(all_of, params, is_leaf=is_variable)


def _learned(names: list[str]) -> bool:
  """Whether a quantizer (`nn.Quantizer`) learns what has this path."""
  return names[-2:-1] == ["learned"]


def decay_mask(
  model: nnx.Module, reach: str, wrt: nnx.filterlib.Filter = nnx.Param
) -> Any:
  """A mask of the parameters that weight decay is to reach.

  Decay pulls a latent weight to where its sign turns, and a sign knows no
  size; so recipes of binary networks often leave latents out.

  Args:
    model: any module, abstract or not.
    reach: "kernels", as `decayed`; "float", those of them that no quantizer
      makes low-bit; "latents", those that one does; "learned", kernels and
      all that quantizers learn: PACT's L2 term of its alpha; "all", every
      parameter, as AdamW without groups has it (Bi-Mamba).
    wrt: as in `latent_mask`.

  Returns:
    A tree of booleans as `latent_mask` has it.

  Raises:
    errors.UserError: for another word.
  """
  if reach not in CHOICES:
    raise errors.UnknownName("reach of weight decay", reach, CHOICES)
  latents = _latents.latent_mask(model, wrt=wrt)
  if reach == "latents":
    return jax.tree.map(bool, latents)
  if reach == "all":
    return jax.tree.map(lambda latent: True, latents)
  kernels = nnx.as_pure(decayed(nnx.state(model, wrt)))
  if reach == "kernels":
    return kernels
  if reach == "float":
    pick = lambda kernel, latent: kernel and not latent
    return jax.tree.map(pick, kernels, latents)
  add = lambda path, kernel: kernel or _learned(_base.name(path).split("/"))
  return jax.tree_util.tree_map_with_path(add, kernels)
