"""Optimizers: how a gradient becomes an update, of latent weights too.

Every member is a plain optax transformation. `adam`, `adamw`, `bert_adam` and
`sgd` give a direction, which is not scaled by a learning rate yet. The others
change the updates of latent weights only, and pass all others on:

  mask = optimizers.latent_mask(model, 1)
  tx = optax.chain(optax.adam(1e-3), optimizers.clip_latents(1.0, mask))

A hyper-parameter that is a schedule reads `tx.update(..., progress=...)`;
optax hands it on. `build` puts them together as a config has them.
"""

from jbin.optimizers._adam import adam, adamw
from jbin.optimizers._base import REGISTRY, Mask, role
from jbin.optimizers._bert_adam import BertAdamState, bert_adam
from jbin.optimizers._bop import BopState, bop
from jbin.optimizers._build import Optimizer, build
from jbin.optimizers._clip_latents import clip_latents
from jbin.optimizers._decay import decay_mask, decayed
from jbin.optimizers._latents import Latent, latent_layers, latent_mask
from jbin.optimizers._proxquant import (
  ProxQuantState,
  prox_binary,
  prox_median,
  prox_ternary,
  proxquant,
  ternarize,
)
from jbin.optimizers._sgd import sgd
from jbin.optimizers._shrink_latents import shrink_latents

__all__ = [
  "REGISTRY",
  "BertAdamState",
  "BopState",
  "Latent",
  "Mask",
  "Optimizer",
  "ProxQuantState",
  "adam",
  "adamw",
  "bert_adam",
  "bop",
  "build",
  "clip_latents",
  "decay_mask",
  "decayed",
  "latent_layers",
  "latent_mask",
  "prox_binary",
  "prox_median",
  "prox_ternary",
  "proxquant",
  "role",
  "sgd",
  "shrink_latents",
  "ternarize",
]
