"""Hand-made modules, and a family of checkpoints for them."""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import load_file, save_file

from jbin import registry
from jbin.pretrained import Family, Row, _layers, _table

SHAPES = {
  "words/embedding": (5, 4),
  "blocks/attn/query/kernel": (2, 4, 2, 3),
  "blocks/attn/query/bias": (2, 2, 3),
  "blocks/attn/key/kernel": (2, 4, 2, 3),
  "blocks/attn/value/kernel": (2, 4, 2, 3),
  "blocks/attn/out/kernel": (2, 2, 3, 4),
  "stages/0/pairs/even/kernel": (2, 4, 6),
  "stages/0/pairs/odd/kernel": (2, 4, 6),
  "stages/1/pairs/even/kernel": (1, 4, 8),
  "stages/1/pairs/odd/kernel": (1, 4, 8),
  "conv/kernel": (3, 2, 4, 8),
  "scale": (),
  "head/kernel": (4, 3),
  "head/bias": (3,),
}


class Node(nnx.Module):
  """What paths lead through."""


def module(shapes=SHAPES, dtype=jnp.float32):
  """A module with parameters of these shapes, of random bits."""
  generator = np.random.default_rng(0)
  root = Node()
  for path, shape in shapes.items():
    *parents, name = path.split("/")
    node = root
    for parent in parents:
      if not hasattr(node, parent):
        setattr(node, parent, Node())
      node = getattr(node, parent)
    array = np.asarray(generator.normal(size=shape), np.float32)
    setattr(node, name, nnx.Param(jnp.asarray(array, dtype)))
  return root


def toy():
  """Every kind of row."""
  linear = _layers.linear("stages/{s}/pairs/even", "stage.{s}.{2n}.fc")
  linear += _layers.linear("stages/{s}/pairs/odd", "stage.{s}.{2n+1}.fc")
  return Family(
    rows=(
      *_layers.embed("words", "body.wte"),
      Row(
        "blocks/attn/query/kernel",
        "body.h.{n}.qkv.weight",
        "ihd->(hd)i",
        (0, 3),
      ),
      Row(
        "blocks/attn/key/kernel", "body.h.{n}.qkv.weight", "ihd->(hd)i", (1, 3)
      ),
      Row(
        "blocks/attn/value/kernel",
        "body.h.{n}.qkv.weight",
        "ihd->(hd)i",
        (2, 3),
      ),
      Row("blocks/attn/query/bias", "body.h.{n}.q_bias", "hd->(hd)"),
      *_layers.merged("blocks/attn/out", "body.h.{n}.proj"),
      *linear,
      *_layers.conv("conv", "body.conv"),
      *_layers.array("scale", "body.scale", ""),
      *_layers.linear("head", "head"),
    ),
    types=("toy",),
    config=lambda model, shapes: {"model_type": "toy", "heads": 2},
    arguments=lambda config, names: ("toy", {"heads": config["heads"]}),
    unseen=lambda model, shapes: _table.axis(
      shapes, "heads", "blocks/attn/query/kernel", 2
    ),
    spellings=((r"^(wte|h|conv|scale)(\.|$)", r"body.\1\2"),),
    ignored=(r".*\.position_ids",),
    copies=(("lm_head.weight", "body.wte.weight"),),
    refused=(("distilled", "it is of another kind"),),
  )


def register(monkeypatch, *families):
  """Puts these families in place of all that there are."""
  only = registry.Registry("family of weights")
  for family in families:
    only.register(family)
  monkeypatch.setattr(_table, "REGISTRY", only)


def arrays(model):
  """{path: array} of a module."""
  state = nnx.to_flat_state(nnx.state(model, nnx.Param))
  return {
    "/".join(map(str, path)): np.asarray(leaf.get_value())
    for path, leaf in state
  }


def rewrite(folder, change):
  """Changes the tensors of a folder's only file."""
  path = folder / "model.safetensors"
  tensors = load_file(path)
  change(tensors)
  save_file(tensors, path, {"format": "pt"})


def same(a, b):
  """Whether two dicts have the same arrays, bit for bit."""
  return a.keys() == b.keys() and all(
    a[key].shape == b[key].shape
    and a[key].dtype == b[key].dtype
    and a[key].tobytes() == b[key].tobytes()
    for key in a
  )
