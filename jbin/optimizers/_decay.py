"""Which parameters weight decay reaches."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jbin import errors
from jbin.optimizers import _latents

CHOICES = ("kernels", "float", "latents")


def decayed(params: Any) -> Any:
  """A mask of the parameters with two axes and more: kernels."""
  return jax.tree.map(lambda w: jnp.ndim(w) > 1, params)


def decay_mask(model: nnx.Module, reach: str) -> Any:
  """A mask of the parameters that weight decay is to reach.

  Decay pulls a latent weight to where its sign turns, and a sign knows no
  size; so recipes of binary networks often leave latents out.

  Args:
    model: any module, abstract or not.
    reach: "kernels", parameters of two axes and more; "float", those of them
      that no quantizer makes low-bit; "latents", those that one does.

  Returns:
    A tree of booleans as `latent_mask` has it.

  Raises:
    errors.UserError: for another word.
  """
  if reach not in CHOICES:
    raise errors.UnknownName("reach of weight decay", reach, CHOICES)
  latents = _latents.latent_mask(model)
  if reach == "latents":
    return jax.tree.map(bool, latents)
  kernels = nnx.as_pure(decayed(nnx.state(model, nnx.Param)))
  if reach == "kernels":
    return kernels
  pick = lambda kernel, latent: kernel and not latent
  return jax.tree.map(pick, kernels, latents)
