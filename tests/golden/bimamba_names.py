"""The names and layouts of Bi-Mamba's files, and ours."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

import jbin
from jbin import models, quantizers
from jbin.pretrained import REGISTRY, _axes, _table

# In the order of `cfg`; of whole models three more follow.
_CONFIG = ("features", "expand", "heads", "head_dim", "state", "groups")
_CONFIG += ("conv_width", "chunk", "layers", "vocab_size", "tied")
RULE = jbin.Rule(
  ".*/(in_proj|out_proj)", kernel_quantizer=quantizers.fbi_weight(zero=0.0)
)


def make(cfg, *, binary: bool, **options):
  """The model of a `cfg`."""
  named = dict(zip(_CONFIG, map(int, cfg), strict=False))
  heads = named.pop("heads")
  assert named["features"] * named["expand"] == heads * named["head_dim"]
  named = {"layers": 1, "vocab_size": 2, **named, **options}
  named["tied"] = bool(named.get("tied", True))
  model = models.mamba2(**named, rngs=nnx.Rngs(0))
  return jbin.quantize(model, RULE) if binary else model


def pieces(model, inside: str = ""):
  """(path, variable, pieces) of each parameter; `inside` the model is it."""
  family = REGISTRY.get("mamba2_untied")()
  for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
    name = "/".join(map(str, path))
    shape = variable[...].shape
    if inside:  # one member of a stack
      found = family.pieces(inside + name, (1, *shape))
    else:
      found = family.pieces(name, shape)
    assert found, name
    yield path, variable, found


def fill(part, arrays, head: str, inside: str):
  """Puts the arrays `head + name` into a layer of the only block.

  Args:
    part: a layer of a block that `nn.members` gave.
    arrays: {key: array}.
    head: what keys begin with.
    inside: our path to the layer.
  """
  state = nnx.state(part, nnx.Param)
  flat = []
  for path, variable, (piece,) in pieces(part, inside):
    theirs = arrays[head + _tail(piece)]
    assert theirs.shape == piece.whole
    ours = _axes.to_ours(piece.axes, theirs, piece.shape)
    flat.append((path, variable.replace(jnp.asarray(ours))))
  nnx.update(part, nnx.from_flat_state(flat))
  assert len(flat) == len(nnx.to_flat_state(state))


def theirs(state, inside: str = ""):
  """{their name: array} of our parameters, or of their gradients."""
  found: dict[str, np.ndarray] = {}
  for _, variable, made_of in pieces(state, inside):
    array = np.asarray(variable[...])
    for piece in made_of:
      one = array if inside or piece.member is None else array[piece.member]
      name = _tail(piece) if inside else piece.name
      found[name] = _axes.to_theirs(piece.axes, one)
  return found


def _tail(piece: _table.Piece) -> str:
  """A name inside of a mixer."""
  return piece.name.removeprefix("backbone.layers.0.mixer.")
