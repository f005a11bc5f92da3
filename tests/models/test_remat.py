"""What the backward pass computes again changes no number."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jbin
from jbin import convert, errors, models
from tests import programs

VIT = {"features": 16, "heads": 2, "depth": 2, "patch": 4, "image_size": 8}
PYRAMID = {
  "features": (8, 12),
  "depths": (2, 2),
  "heads": (2, 3),
  "reductions": (2, 1),
  "strides": (2, 2),
  "drop_path": 0.25,
}
PVT = PYRAMID | {"mlp_ratios": (2, 2), "patches": (3, 3)}
HASH = {"attention": "hash", "anchors": 4, "similar": 3, "bits": 5}
DROPPED = {"dropout": 0.25, "drop_path": 0.25}


class Row(NamedTuple):
  """A model, its options, its rules, and whether it reads words."""

  name: str
  options: dict[str, Any]
  rules: Callable[[], Any] | None = None
  words: bool = False

  def make(self, **more: Any) -> nnx.Module:
    """The model; `remat` of `more` is what differs."""
    factory = models.REGISTRY.get(self.name)
    return factory(**self.options, **more, rngs=nnx.Rngs(0))

  def inputs(self) -> jax.Array:
    """Four images of 8 x 8, or two texts of 6 words."""
    rng = np.random.default_rng(1)
    if self.words:
      return jnp.asarray(rng.integers(0, 11, (2, 6)), jnp.int32)
    return jnp.asarray(rng.normal(size=(4, 8, 8, 3)), jnp.float32)


ROWS = {
  "resnet bnn": Row(
    "resnet20",
    {"width": 8, "blocks": 1, "activation": "hardtanh"},
    functools.partial(convert.REGISTRY.get("method"), "bnn"),
  ),
  "vit": Row("vit", VIT | DROPPED),
  "vit bivit": Row(
    "vit",
    VIT | {"drop_path": 0.25},
    functools.partial(convert.REGISTRY.get("bivit"), mlp="w1a1"),
  ),
  "mamba2 bimamba": Row(
    "mamba2",
    {
      "vocab_size": 11,
      "layers": 2,
      "features": 8,
      "head_dim": 4,
      "state": 5,
      "groups": 2,
      "chunk": 4,
    },
    convert.REGISTRY.get("bimamba"),
    words=True,
  ),
  "pokebnn": Row(
    "pokebnn",
    {"num_classes": 10, "stages": (1,), "features": (8,), "stem": "conv3"},
  ),
  "bert": Row(
    "bert",
    {
      "layers": 2,
      "features": 12,
      "heads": 3,
      "mlp_features": 20,
      "vocab_size": 11,
      "max_length": 6,
      "dropout": 0.25,
    },
    words=True,
  ),
  "nest": Row(
    "nest",
    {
      "features": (4, 8),
      "depths": (2, 1),
      "heads": (1, 2),
      "patch": 2,
      "image_size": 8,
    }
    | DROPPED,
  ),
  "pvt_v2": Row("pvt_v2", PVT),
  "pvt_v2 hash": Row("pvt_v2", PVT | HASH),
  "swin": Row(
    "swin",
    {
      "features": 4,
      "depths": (4, 2),
      "heads": (1, 2),
      "window": 2,
      "patch": 2,
      "image_size": 8,
    }
    | DROPPED,
  ),
  "twins_svt": Row(
    "twins_svt", PYRAMID | {"depths": (4, 2), "window": 2, "mlp_ratio": 2.0}
  ),
}
QUICK = [("resnet bnn", "full"), ("vit bivit", "dots")]
CASES = [(name, remat) for name in ROWS for remat in ("full", "dots")]


@functools.cache
def _step(name, remat):
  """The gradient with all that the call changes, and its parameters."""
  row = ROWS[name]
  model, x = row.make(remat=remat), row.inputs()
  if row.rules is not None:
    model = jbin.quantize(model, row.rules(), x[:1])
  graph, params, rest = nnx.split(model, nnx.Param, ...)

  def loss(params):
    now = nnx.merge(graph, params, rest, copy=True)
    y = jnp.square(now(x)).mean()
    state = nnx.state(now, nnx.Not(nnx.Param))
    return y, jax.tree.map(_plain, state)

  return jax.value_and_grad(loss, has_aux=True), params


@functools.cache
def _gradient(name, remat):
  step, params = _step(name, remat)
  return programs.once(step)(params)


def _plain(leaf):
  if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    return jax.random.key_data(leaf)
  return leaf


@functools.cache
def _products(name, remat):
  """How many the program of the gradient has."""
  names = (e.primitive.name for e in programs.equations(*_step(name, remat)))
  return sum(n in ("dot_general", "conv_general_dilated") for n in names)


@pytest.mark.parametrize(
  ("name", "remat"),
  [
    pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow)
    for case in CASES
  ],
)
def test_values_and_what_is_measured_and_drawn(name, remat):
  """Batch statistics and random streams too, each moved on once.

  And products are there that are not without: attentions' and convolutions'
  at least, which "dots" does not keep.
  """
  want, got = _gradient(name, "none"), _gradient(name, remat)
  leaves = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
  for a, b in leaves:
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
  assert _products(name, remat) > _products(name, "none")


@pytest.mark.parametrize("name", ["vit", "vit bivit", "mamba2 bimamba"])
def test_dots_keeps_products_with_parameters(name):
  assert _products(name, "dots") < _products(name, "full")


@pytest.mark.parametrize("name", ROWS)
def test_an_unknown_name_is_refused(name):
  with pytest.raises(errors.UserError, match="remat"):
    ROWS[name].make(remat="all")
